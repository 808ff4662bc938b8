"""The curves of a chart as JSON: a Vega-Lite specification with its data, a legend, and the table beneath."""

import math
from collections.abc import Sequence
from typing import Any

from innerpo.evaluation.report import charts
from innerpo.evaluation.report.render import table_html
from innerpo.evaluation.report.theme import SHAPES, series_of
from innerpo.view.runs import Run
from innerpo.view.tables import curve_ends

FIRST = ("loss", "rewards/accuracies")
"""Curves that a page shows at first."""
AT_ONCE = 6
"""Runs whose curves are shown where nobody chose any."""
POINTS = 400
"""Longer curves are thinned to about so many points; the first and the last stay."""


def chosen_by_default(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with a log that changed last, a few of them."""
    logged = [run for run in runs if run.log.lines]
    return sorted(logged, key=lambda run: -run.log.changed)[:AT_ONCE]


def chart(runs: Sequence[Run], key: str) -> dict[str, Any]:
    """Return what the page's script draws; ``spec`` is None where no run has logged the key (yet)."""
    keys = list(dict.fromkeys(name for run in runs for name in run.log.names()))
    series = series_of(run.name for run in runs if points(run, key))
    rows = [
        {"series": run.name, "line": run.name, "x": step, "y": value}
        for run in runs
        for step, value in points(run, key)
    ]
    legend = [{"label": s.label, "colour": s.colour, "path": SHAPES[s.shape]} for s in series]
    return {
        "key": key,
        "keys": keys,
        "spec": charts.lines(rows, series, "step", key) if rows else None,
        "points": len(rows),
        "legend": legend,
        "description": f"{key} over training steps of {len(series)} runs; the table beneath has first and last values",
        "table": table_html(curve_ends(runs, key)),
    }


def points(run: Run, key: str) -> list[tuple[float, float]]:
    """Return (step, value) of what a run has logged under a key, thinned."""
    found = []
    for line in run.log.lines:
        value = line.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            found.append((float(line["step"]), float(value)))
    every = max(1, math.ceil(len(found) / POINTS))
    return found[::every] + ([found[-1]] if found and (len(found) - 1) % every else [])
