"""What is known of runs as tables of the report's kind: headline tables, options that differ, the end of the log."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from innerpo.evaluation.report.cells import UNKNOWN, interval, text
from innerpo.evaluation.report.records import Cell, Table
from innerpo.view.runs import Run

SETS = ("train", "test", "oos", "rnd")
"""Columns that come first in a headline table."""
SCORER = "mean_logp"
"""The scorer of the overview."""
LOG_LINES = 12


def headline_tables(run: Run) -> list[Table]:
    """Return every headline table of a run: of each folder of scores, by each scorer."""
    found = []
    for part, by_scorer in run.tables.items():
        for scorer, content in by_scorer.items():
            if rows := list(_rows(content)):
                sets = _sets(cells for _, cells in rows)
                lines = tuple((text(model), *(_cell(cells.get(s)) for s in sets)) for model, cells in rows)
                where = f"{part}: accuracy" if part else "Accuracy"
                title = f"{where} by {scorer}, 95 % interval over prompts"
                found.append(Table(title, ("model", *sets), lines, _notes(content)))
    return found


def overview(run: Run) -> dict[str, Cell]:
    """Return the accuracy of a run's own model, as trained, on each headline set by mean_logp, where it is known."""
    rows = list(_rows(run.tables.get("", {}).get(SCORER)))
    own = [cells for name in (run.method, f"{run.method} x 1") for model, cells in rows if model == name]
    return {name: _cell(own[0].get(name)) if own else UNKNOWN for name in SETS}


def compared(runs: Sequence[Run]) -> Table | None:
    """Return the headline rows of several runs in one table, that of the base once where it is the same."""
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for run in runs:
        for model, cells in _rows(run.tables.get("", {}).get(SCORER)):
            if model != "base" or ("base", cells) not in rows:
                rows.append((model if model == "base" else f"{run.name}: {model}", cells))
    if not rows:
        return None
    sets = _sets(cells for _, cells in rows)
    lines = tuple((text(name), *(_cell(cells.get(s)) for s in sets)) for name, cells in rows)
    return Table(f"Accuracy by {SCORER}, 95 % interval over prompts", ("run: model", *sets), lines)


def differing_options(runs: Sequence[Run]) -> Table:
    """Return the options in which the configs of runs differ."""
    flat = [dict(_flat(run.config)) for run in runs]
    names = [n for n in dict.fromkeys(n for options in flat for n in options) if n not in ("run_id", "inputs")]
    rows = []
    for name in names:
        values = [str(options.get(name, "–")) for options in flat]
        if len(set(values)) > 1:
            rows.append((text(name), *(text(value) for value in values)))
    return Table("Options that differ", ("option", *(run.name for run in runs)), tuple(rows))


def log_table(run: Run) -> Table | None:
    """Return the last lines of a run's log, with the numbers that were logged at most steps."""
    keys = [
        key for key in run.log.names() if key.startswith(("loss", "rewards/")) or key in ("grad_norm", "learning_rate")
    ]
    lines = [line for line in run.log.lines if "loss" in line][-LOG_LINES:]
    if not lines:
        return None
    rows = tuple((_whole(float(line["step"])), *(_short(_number(line.get(key))) for key in keys)) for line in lines)
    return Table(f"The last {len(lines)} lines of the log", ("step", *keys), rows)


def curve_ends(runs: Sequence[Run], key: str) -> Table:
    """Return first, last and smallest logged value of a key for each run: the data of a chart, in short."""
    rows = []
    for run in runs:
        values = [
            (float(line["step"]), float(line[key])) for line in run.log.lines if _number(line.get(key)) is not None
        ]
        if values:
            ends = (values[0][1], values[-1][1], min(v for _, v in values), max(v for _, v in values))
            rows.append((text(run.name), _whole(values[-1][0]), *(_short(value) for value in ends)))
    return Table(f"{key} of each run", ("run", "last step", "first", "last", "smallest", "largest"), tuple(rows))


def _rows(content: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The models of a headline table with their cells; nothing where it is of another form."""
    if isinstance(content, dict):
        yield from ((str(m), cells) for m, cells in content.items() if m != "columns" and isinstance(cells, dict))


def _sets(rows: Iterator[Mapping[str, Any]]) -> list[str]:
    found = list(dict.fromkeys(str(name) for cells in rows for name in cells))
    return [s for s in SETS if s in found] + [s for s in found if s not in SETS]


def _cell(cell: Any) -> Cell:
    if not isinstance(cell, dict) or _number(cell.get("mean")) is None:
        return UNKNOWN
    unknown = math.nan
    low, high = (unknown if (v := _number(cell.get(end))) is None else v for end in ("low", "high"))
    return interval(float(cell["mean"]), low, high)


def _notes(content: Any) -> tuple[str, ...]:
    sources = content.get("columns")
    return tuple(f"{name}: {source}" for name, source in sources.items()) if isinstance(sources, dict) else ()


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(step: float) -> Cell:
    return Cell(f"{step:.12g}", step)


def _short(value: float | None) -> Cell:
    """Four digits, wherever the point is: learning rates are small."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return Cell(f"{value:.4g}".replace("-", "−"), value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value and prefix.count(".") < 3:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
