"""Colours and shapes of series, and how charts are drawn.

The colours are those of Okabe and Ito (2008, "Color Universal Design"), which people with any common colour vision tell
apart. A series has a shape besides, so that no chart depends on colour. Text and axes of a chart take the colour of the
text around it (``currentColor``): one chart serves light, dark and paper.
"""

from collections.abc import Iterable
from typing import Any

from innerpo.evaluation.report.records import Series

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "currentColor")
"""Okabe-Ito without yellow, which is hard to see on white; black is the colour of the text."""

SHAPES = {
    "circle": "M8 2a6 6 0 1 0 .01 0z",
    "square": "M3 3h10v10H3z",
    "triangle-up": "M8 2l6.5 11.5h-13z",
    "diamond": "M8 1l6 7-6 7-6-7z",
    "cross": "M6 2h4v4h4v4h-4v4H6v-4H2V6h4z",
    "triangle-down": "M8 14L1.5 2.5h13z",
    "triangle-right": "M14 8L2.5 14.5v-13z",
    "triangle-left": "M2 8l11.5-6.5v13z",
}
"""Vega's name of a shape, and its outline in a box of 16 x 16 for legends."""

_AXIS = {
    "labelColor": "currentColor",
    "titleColor": "currentColor",
    "titleFontWeight": "normal",
    "labelFontSize": 12,
    "titleFontSize": 12,
    "domainColor": "currentColor",
    "domainOpacity": 0.5,
    "tickColor": "currentColor",
    "tickOpacity": 0.5,
    "gridColor": "currentColor",
    "gridOpacity": 0.12,
    "labelLimit": 170,
}

CONFIG: dict[str, Any] = {
    "aria": False,  # the figure around a chart describes it, and a table holds its data
    "background": "transparent",
    "font": "sans-serif",
    "axis": _AXIS,
    "view": {"stroke": None},
    "rule": {"color": "currentColor"},
}
"""Vega-Lite's ``config`` for every chart."""


def series_of(labels: Iterable[str]) -> tuple[Series, ...]:
    """Return a colour and a shape for every distinct label, in order: 56 labels differ in one or the other."""
    shapes = list(SHAPES)
    distinct = dict.fromkeys(labels)
    return tuple(Series(label, COLOURS[i % len(COLOURS)], shapes[i % len(shapes)]) for i, label in enumerate(distinct))
