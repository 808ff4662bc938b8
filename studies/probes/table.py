"""The probe table from the stored outcomes: ``python -m studies.probes.table studies/probes/results``."""

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from innerpo.errors import UserError
from innerpo.evaluation.statistics import DIFFERENCE, Estimate, clustered, one_run, proportion
from innerpo.files import write_text

ABOUT = ("source", "set", "pair", "prompt")
PLAIN = ("base", "longer")
TABLE = "table.md"


def read(folder: Path) -> dict[str, pl.DataFrame]:
    """Return the outcomes by source. Raises UserError where a folder holds none."""
    found = {path.stem: pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
    if not found:
        raise UserError(f"{folder} holds no outcomes; python -m studies.probes.run writes them")
    return found


def accuracy(frame: pl.DataFrame, name: str, reader: str) -> Estimate:
    """Return the accuracy of a reader on a set of a source, with the interval over prompts."""
    rows = frame.filter(pl.col("set") == name)
    return proportion(rows[reader].cast(pl.Float64).to_numpy() / 2.0, rows["prompt"].to_list())


def markdown(found: dict[str, pl.DataFrame]) -> str:
    """Return the tables of all sources: every direction and pool at the default depths, then by depth."""
    parts = []
    for source, frame in found.items():
        parts += [f"## {source}\n", _table(frame, _at_middle(frame)), "By depth (pooling `mean`):\n", _by_depth(frame)]
    return "\n".join(parts)


def readers(frame: pl.DataFrame) -> list[str]:
    """Return the readers of a frame, in their order."""
    return [column for column in frame.columns if column not in ABOUT]


def _at_middle(frame: pl.DataFrame) -> list[str]:
    return [r for r in readers(frame) if r in PLAIN or r.endswith(("/middle", "/all"))]


def _table(frame: pl.DataFrame, rows: Sequence[str]) -> str:
    sets = frame["set"].unique(maintain_order=True).to_list()
    counts = [f"{name} ({n} pairs)" for name, n in ((s, len(frame.filter(pl.col("set") == s))) for s in sets)]
    lines = [_row("reader", "wrong in training", *counts), _row("---", *["---:"] * (len(sets) + 1))]
    for reader in rows:
        wrong = float((frame.filter(pl.col("set") == "train")[reader] == 0).to_numpy().mean())
        cells = [_cell(frame, name, reader) for name in sets]
        lines.append(_row(reader.removesuffix("/middle").removesuffix("/all"), f"{wrong:.3f}", *cells))
    return "\n".join(lines) + "\n"


def _by_depth(frame: pl.DataFrame) -> str:
    sets = frame["set"].unique(maintain_order=True).to_list()
    chosen = [r for r in readers(frame) if "/mean/" in r and not r.endswith("/middle")]
    depths = list(dict.fromkeys(r.split("/")[2] for r in chosen))
    lines = [_row("direction", "set", *(f"block {d}" for d in depths)), _row("---", "---", *["---:"] * len(depths))]
    for direction in dict.fromkeys(r.split("/")[0] for r in chosen):
        for name in sets:
            cells = [f"{accuracy(frame, name, f'{direction}/mean/{d}').mean:.3f}" for d in depths]
            lines.append(_row(direction, name, *cells))
    return "\n".join(lines) + "\n"


def _cell(frame: pl.DataFrame, name: str, reader: str) -> str:
    """Accuracy with its interval; a plus where the difference to the base has an interval above 0, a minus below."""
    found = accuracy(frame, name, reader)
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]{_mark(frame, name, reader)}"


def _mark(frame: pl.DataFrame, name: str, reader: str) -> str:
    rows = frame.filter(pl.col("set") == name)
    more = (rows[reader].cast(pl.Float64) - rows["base"].cast(pl.Float64)).to_numpy() / 2.0
    found = one_run(clustered(more[None], rows["prompt"].to_list()), DIFFERENCE)
    return " +" if found.low > 0.0 else " -" if found.high < 0.0 else ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "studies/probes/results")
    write_text(folder / TABLE, markdown(read(folder)))
