"""The section on training: what ``metrics.jsonl`` logged, one line a run."""

import math
from typing import Any

from innerpo.evaluation.report import charts
from innerpo.evaluation.report.cells import number, text, whole
from innerpo.evaluation.report.folders import read_lines, trained_runs
from innerpo.evaluation.report.records import Figure, Section, Series, Table
from innerpo.evaluation.study import Study
from innerpo.training.paths import METRICS

SHOWN = {
    "loss": ("loss", "The loss that was minimised; runs of different losses are not on one scale."),
    "rewards/accuracies": (
        "accuracy of the log-ratio",
        "Share of training pairs whose chosen response gained more log-probability than the rejected one.",
    ),
    "mean_logps/chosen": (
        "log p per token, chosen",
        "Log-probability per token of chosen, in nats. Where it falls far below its start, the policy moves away from "
        "the text it is trained to prefer.",
    ),
}
"""Key of the log -> title of its axis, and how to read it."""

POINTS = 80
"""A line is thinned to about so many points; the first and the last stay."""


def training_section(study: Study, series: tuple[Series, ...]) -> Section | None:
    """Return the charts of what was logged, or None where no run has a log."""
    logs = {run["run"]: (run, read_lines(folder / METRICS)) for run, folder in trained_runs(study)}
    logs = {name: found for name, found in logs.items() if found[1]}
    figures = tuple(figure for key in SHOWN if (figure := _figure(key, logs, series)))
    if not figures:
        return None
    legend = _used(series, [run["method"] for run, _ in logs.values()])
    return Section("training", "Training", (f"Logs of {len(logs)} runs; one line is one run.",), (), figures, legend)


def logged(lines: list[dict[str, Any]], key: str, points: int = POINTS) -> list[tuple[float, float]]:
    """Return (step, value) of a key of the log, thinned."""
    found = [
        (float(row["step"]), float(row[key]))
        for row in lines
        if isinstance(row.get("step"), int | float) and isinstance(row.get(key), int | float)
    ]
    found = [(step, value) for step, value in found if math.isfinite(value)]
    every = max(1, math.ceil(len(found) / points))
    return found[::every] + ([found[-1]] if found and (len(found) - 1) % every else [])


def _figure(
    key: str, logs: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]], series: tuple[Series, ...]
) -> Figure | None:
    axis, caption = SHOWN[key]
    rows, ends = [], []
    for name, (run, lines) in logs.items():
        values = logged(lines, key)
        rows += [{"series": run["method"], "line": name, "x": step, "y": value} for step, value in values]
        if values:
            first, last = values[0][1], values[-1][1]
            ends.append((text(name), text(run["method"]), whole(int(values[-1][0])), number(first, 4), number(last, 4)))
    if not rows:
        return None
    table = Table(f"{key}: first and last logged value", ("run", "method", "last step", "first", "last"), tuple(ends))
    spec = charts.lines(rows, _used(series, [row["series"] for row in rows]), "step", axis)
    description = f"{axis} over training steps of {len(ends)} runs; the table below has first and last values."
    return Figure(f"training-{key.replace('/', '-')}", key, caption, description, spec, table)


def _used(series: tuple[Series, ...], labels: list[str]) -> tuple[Series, ...]:
    return tuple(s for s in series if s.label in labels)
