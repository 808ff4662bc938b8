"""ETHICS (Hendrycks et al. 2021) as expression pairs: neighbouring rows with a common beginning and opposite labels.

The CSV files are read as published, ``<subset>/<prefix>_{train,test}.csv``. Each row is part of at most one pair; rows
without a partner are reported among those left out.
"""

import csv
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows, PreferencePair
from innerpo.data.sources import hub
from innerpo.data.sources.genies import genies_folder
from innerpo.data.sources.parse import common_root, leave_out, make_pair
from innerpo.errors import UserError, near_matches

HUB_NAME = "wassname/ethics_expression_preferences"
LOCAL_HINT = "or give local data with data.ethics_dir or INNERPO_ETHICS_DIR"
MIN_ROOT_WORDS = 3
"""Words that two rows must share at the start. With fewer, "I was ..." would join rows about different things."""

LabelledText = tuple[int, bool, str, str]
"""(line in the file, whether its label is the better one, text, prompt; "" = the common beginning is the prompt)."""


def _justice(line: int, cells: list[str]) -> list[LabelledText]:
    return [(line, cells[0] == "1", cells[1], "")]  # 1 = reasonable


def _commonsense(line: int, cells: list[str]) -> list[LabelledText]:
    # 1 = clearly wrong, so 0 is better here. The long rows are forum posts, which have no common beginnings.
    return [(line, cells[0] == "0", cells[1], "")] if cells[2] == "True" else []


def _deontology(line: int, cells: list[str]) -> list[LabelledText]:
    return [(line, cells[0] == "1", " " + cells[2].strip(), cells[1].strip())]  # 1 = a reasonable excuse


def _virtue(line: int, cells: list[str]) -> list[LabelledText]:
    scenario, trait = cells[1].split(" [SEP] ")  # 1 = the trait is shown in the scenario
    return [(line, cells[0] == "1", " " + trait.strip(), f"{scenario.strip()}\nCharacter trait:")]


def _utilitarianism(line: int, cells: list[str]) -> list[LabelledText]:
    return [(line, True, cells[0], ""), (line, False, cells[1], "")]  # the first is the more pleasant


SUBSETS: dict[str, tuple[str, Callable[[int, list[str]], list[LabelledText]], bool]] = {
    # name -> (file prefix, cells of a line -> rows, whether the file has a header)
    "justice": ("justice", _justice, True),
    "deontology": ("deontology", _deontology, True),
    "commonsense": ("cm", _commonsense, True),
    "virtue": ("virtue", _virtue, True),
    "utilitarianism": ("util", _utilitarianism, False),
}


def load(name: str, split: str, data: DataConfig, bad: BadRows) -> list[PreferencePair]:
    """Return the expression pairs of a subset, from the CSV files or, without them, from the Hub."""
    if name not in SUBSETS:
        raise UserError(f"unknown ETHICS subset {name!r}{near_matches(name, SUBSETS)}")
    folder, source = ethics_folder(data), f"ethics:{name}"
    if folder is None:
        return hub.load_from(HUB_NAME, name, None, split, data, bad, source=source, hint=LOCAL_HINT)
    path = folder / name / f"{SUBSETS[name][0]}_{split}.csv"
    rows = _rows(path, name, data, bad)
    pairs, alone = pair_neighbours(rows, one_line=name == "utilitarianism")
    bad.reasons += [f"{path} line {line}: has no neighbour to make a pair with" for line in alone]
    return [
        make_pair(prompt, chosen, rejected, id=f"{source}/{split}/{line}", source=source, split=split)
        for line, prompt, chosen, rejected in pairs
    ]


def ethics_folder(data: DataConfig) -> Path | None:
    """Return the folder of the CSV files: from the config, the environment, or ``ethics`` beside the GENIES folder."""
    given = data.ethics_dir or os.environ.get("INNERPO_ETHICS_DIR")
    if given:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise UserError(f"the ETHICS folder {folder} does not exist (data.ethics_dir or INNERPO_ETHICS_DIR)")
        return folder
    genies = genies_folder(data)
    if genies is None:
        return None
    genies = Path(os.path.abspath(genies))  # noqa: PTH100 ("." has no parent to name, and links are not followed)
    root = genies.parent if genies.name == "distributions" else genies
    return root.parent / "ethics" if (root.parent / "ethics").is_dir() else None


def pair_neighbours(
    rows: Sequence[LabelledText], one_line: bool = False
) -> tuple[list[tuple[int, str, str, str]], list[int]]:
    """Pair neighbours so that the total length of the common beginnings is largest; also return unpaired lines.

    Rows come in runs of two to four with one beginning, and neighbouring runs often share their first words ("I
    deserve to be"). Greedy pairing would join rows of different runs; maximising the total (dynamic programming) does
    not.
    """
    joined = [None, *(_join(a, b, one_line) for a, b in itertools.pairwise(rows))]
    best = [0, 0]  # best[i]: most shared words among the first i rows
    for i in range(1, len(rows)):
        pair = joined[i]
        best.append(max(best[i], best[i - 1] + (len(pair[1].split()) if pair else 0)))
    pairs, alone, i = [], [], len(rows)
    while i > 0:
        pair = joined[i - 1] if i > 1 else None
        if pair is not None and best[i] > best[i - 1]:
            pairs.append(pair)
            i -= 2
        else:
            alone.append(rows[i - 1][0])
            i -= 1
    return pairs[::-1], alone[::-1]


def _join(a: LabelledText, b: LabelledText, one_line: bool) -> tuple[int, str, str, str] | None:
    """Return (line, prompt, chosen, rejected) if two rows have a common beginning and opposite labels, else None."""
    (line, good, first, prompt), (other_line, other_good, second, other_prompt) = a, b
    if good == other_good or prompt != other_prompt or (one_line and line != other_line):
        return None
    if not prompt:
        prompt = common_root(first, second)
        if len(prompt.split()) < MIN_ROOT_WORDS:
            return None
        first, second = first[len(prompt) :], second[len(prompt) :]
    if not first.strip() or not second.strip() or first.strip() == second.strip():
        return None
    return (line, prompt, first, second) if good else (line, prompt, second, first)


def _cells(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except (UnicodeDecodeError, csv.Error) as error:
        how = "csv" if isinstance(error, csv.Error) else "UTF-8"
        raise UserError(f"{path} cannot be read as {how}: {error}") from None


def _rows(path: Path, name: str, data: DataConfig, bad: BadRows) -> list[LabelledText]:
    """Read a published CSV file; the error for a missing one names the files that the folder has."""
    prefix, read, header = SUBSETS[name]
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob(f"{prefix}_*.csv"))
        raise UserError(f"{path} does not exist; its folder has {', '.join(there) or 'no csv file of this subset'}")
    rows: list[LabelledText] = []
    with path.open(encoding="utf-8", newline="") as f:
        reader = csv.reader(f)
        lines = _cells(reader, path)
        if header:
            next(lines, None)
        for cells in lines:
            try:
                rows += read(reader.line_num, cells)
            except (IndexError, ValueError):
                reason = f"does not have the columns of ETHICS {name}"
                leave_out(f"{path} line {reader.line_num}", reason, data.on_bad_row, bad)
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows
