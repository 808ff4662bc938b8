"""Local files: jsonl, json, parquet and csv with prompt / chosen / rejected.

The path may be a folder that holds ``train.*`` and ``test.*``. A single file is divided into both splits: by its
``split`` column ("train" or "test") if it has one, else by prompt, a tenth of the prompts for test
(``parse.divided``).
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows, PreferencePair
from innerpo.data.sources.parse import BadRowError, divided, leave_out, pair_from_row
from innerpo.errors import UserError, near_matches

Located = tuple[int, Any]
"""A row and its place: the line number in text files, else the row number, both from 1."""


def load(name: str, split: str, data: DataConfig, bad: BadRows) -> list[PreferencePair]:
    """Return the pairs of one split of a file or folder."""
    path = Path(name).expanduser()
    if path.is_dir():
        file = _split_file(path, split)
        return [replace(p, split=split) for p in read_pairs(file, name, data, bad)]
    found = BadRows()
    pairs = read_pairs(path, name, data, found)
    # Both splits read the same file: report a bad row once.
    known = set(bad.reasons)
    bad.reasons += [reason for reason in found.reasons if reason not in known]
    ours = [p for p in pairs if p.split == split]
    if pairs and not ours:
        raise UserError(
            f"{name} has no {split} row among its {len(pairs)} pairs: "
            "give its rows a column 'split', or give a folder with train.* and test.*"
        )
    return ours


def read_pairs(path: Path, name: str, data: DataConfig, bad: BadRows) -> list[PreferencePair]:
    """Return all pairs of a file, each with its split; bad rows are reported by file and row."""
    if not path.is_file():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"no such file {name}{near_matches(path.name, there)}")
    if path.suffix not in READERS:
        raise UserError(f"{name} has an unknown file type; known: {', '.join(READERS)}")
    unit = "line" if path.suffix in (".jsonl", ".csv") else "row"
    try:
        rows = list(READERS[path.suffix](path))
    except (UnicodeDecodeError, csv.Error) as e:
        how = "" if isinstance(e, csv.Error) else "UTF-8 "
        raise UserError(f"{path} cannot be read as {how}{path.suffix[1:]}: {e}") from None
    if not rows:
        raise UserError(f"{path} has no rows")
    pairs = []
    for number, row in rows:
        try:
            if isinstance(row, BadRowError):
                raise row
            pair = pair_from_row(row, f"{path.name}/{number}", name, "")
            pairs.append(replace(pair, split=_split_of(row, pair)))
        except BadRowError as e:
            leave_out(f"{path} {unit} {number}", str(e), data.on_bad_row, bad)
    return pairs


def _split_of(row: Any, pair: PreferencePair) -> str:
    named = row.get("split")
    if named is None:
        return divided(pair)
    if named not in ("train", "test"):
        raise BadRowError(f"has split {named!r}, which is neither 'train' nor 'test'")
    return str(named)


def _split_file(folder: Path, split: str) -> Path:
    files = sorted(p for p in folder.glob(f"{split}.*") if p.suffix in READERS)
    if len(files) != 1:
        what = "more than one of" if files else "none of"
        raise UserError(f"the folder {folder} holds {what} {', '.join(split + ending for ending in READERS)}")
    return files[0]


def _jsonl(path: Path) -> Iterator[Located]:
    with _open(path) as f:
        for number, line in enumerate(f, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as e:
                    yield number, BadRowError(f"is not JSON: {e}")


def _json(path: Path) -> Iterator[Located]:
    with _open(path) as f:
        text = f.read()
    try:
        rows = json.loads(text) if text.strip() else []
    except ValueError as e:
        raise UserError(f"{path} is not JSON: {e}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path} holds {type(rows).__name__}, not a list of rows")
    yield from enumerate(rows, 1)


def _csv(path: Path) -> Iterator[Located]:
    with _open(path) as f:
        reader = csv.DictReader(f)
        for row in reader:
            if any(
                cell.strip() for cell in row.get(None, ())
            ):  # an unquoted comma: the cells are not those of the header
                yield reader.line_num, BadRowError(f"has more cells than the header, which has {len(row) - 1}")
                continue
            yield reader.line_num, {k: v for k, v in row.items() if k is not None and v is not None}


def _parquet(path: Path) -> Iterator[Located]:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as e:
        raise UserError(f"{path} is not a parquet file: {e}") from None
    yield from enumerate(table.to_pylist(), 1)


def _open(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8-sig", newline="" if path.suffix == ".csv" else None)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from None


READERS: dict[str, Callable[[Path], Iterator[Located]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
}
