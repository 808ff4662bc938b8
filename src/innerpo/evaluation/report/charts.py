"""The charts of the page as Vega-Lite specifications, made from plain rows (Altair 6).

Rows are dicts with the keys that each function names. Every chart is one view as wide as its column,
so that it is readable on a telephone. Its legend is HTML beside it (``Section.legend``), shared by a section.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from innerpo.evaluation.report.records import Series
from innerpo.evaluation.report.theme import CONFIG

Rows = Sequence[Mapping[str, Any]]

DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
"""Lines differ in dashes as points do in shapes."""


def forest(
    rows: Rows, series: Sequence[Series], title: str, category: str = "set", rule: float | None = 0.0
) -> dict[str, Any]:
    """Estimates with intervals, one line per category and series; a dashed rule at ``rule``, if any.

    Keys: the category, ``series``, ``mean``, ``low``, ``high`` in the unit of ``title``. Unknown rows are left out.
    """
    import altair as alt

    rows = [row for row in rows if row["mean"] == row["mean"]]
    names = list(dict.fromkeys(str(row[category]) for row in rows))
    band = max(26, 13 * len(series))
    y = alt.Y(
        f"{category}:N",
        sort=None,
        scale=alt.Scale(domain=names),
        title=None,
        axis=alt.Axis(ticks=False, domain=False, grid=True),
    )
    offset = alt.YOffset("series:N", sort=None, scale=alt.Scale(domain=[s.label for s in series], paddingOuter=0.25))
    x = alt.X("mean:Q", title=title, scale=alt.Scale(zero=False, nice=True))
    base = alt.Chart(alt.NamedData("rows")).encode(y=y, yOffset=offset)
    tips = [alt.Tooltip(f"{category}:N"), alt.Tooltip("series:N", title="method"), alt.Tooltip("text:N", title="")]
    bars = base.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q", title=title), x2="high:Q", color=_colour(series))
    points = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=x, color=_colour(series), shape=_shape(series), tooltip=tips
    )
    layers = [bars, points]
    if rule is not None:
        at_rule = alt.Chart(alt.NamedData("rule")).mark_rule(strokeDash=[3, 3], opacity=0.7)
        layers.insert(0, at_rule.encode(x=alt.X("at:Q", title=title)))
    return _spec(alt.layer(*layers), band * max(1, len(names)), rows=rows, rule=[{"at": rule}])


def curve(rows: Rows, series: Sequence[Series], base: tuple[float, float] | None = None) -> dict[str, Any]:
    """Accuracy on the shift against accuracy in distribution, points joined by strength; thin lines are single seeds.

    Keys: ``series``, ``line`` (unique for each line), ``mean`` (bool: the mean over seeds), ``strength``, ``test``,
    ``oos``. Points are drawn on the lines of means only, that at strength 1 larger.
    """
    import altair as alt

    x = alt.X("test:Q", title="accuracy on test", scale=alt.Scale(zero=False), axis=alt.Axis(format=".2f", tickCount=5))
    y = alt.Y("oos:Q", title="accuracy on the shift", scale=alt.Scale(zero=False), axis=alt.Axis(format=".2f"))
    data = alt.Chart(alt.NamedData("rows")).encode(x=x, y=y, color=_colour(series), order="strength:Q")
    tips = [
        alt.Tooltip("series:N", title="method"),
        alt.Tooltip("strength:Q"),
        alt.Tooltip("test:Q", format=".3f"),
        alt.Tooltip("oos:Q", format=".3f", title="shift"),
    ]
    seeds = data.mark_line(strokeWidth=1, opacity=0.35).encode(detail="line:N").transform_filter("!datum.mean")
    means = data.mark_line(strokeWidth=2).encode(strokeDash=_dash(series), detail="line:N")
    dots = data.mark_point(filled=True, opacity=1).encode(
        shape=_shape(series),
        size=alt.condition("datum.strength == 1", alt.value(130), alt.value(45)),
        tooltip=tips,
    )
    layers = [seeds, means.transform_filter("datum.mean"), dots.transform_filter("datum.mean")]
    if base is not None:
        at_base = alt.Chart(alt.NamedData("base"))
        layers.append(at_base.mark_text(text="base", dy=-9, color="currentColor", fontSize=11).encode(x=x, y=y))
    at_base = [] if base is None else [{"test": base[0], "oos": base[1]}]
    return _spec(alt.layer(*layers), 240, rows=rows, base=at_base)


def lines(rows: Rows, series: Sequence[Series], x: str, y: str, dashed: str = "") -> dict[str, Any]:
    """Lines over steps or blocks. Keys: ``x``, ``y``, ``series``, ``line`` (unique for each line).

    ``dashed`` names a key whose second value is drawn dashed (the reference beside the policy).
    """
    import altair as alt

    few = len(rows) <= 400
    chart = (
        alt.Chart(alt.NamedData("rows"))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("x:Q", title=x, scale=alt.Scale(nice=False), axis=alt.Axis(tickMinStep=1, tickCount=6, grid=False)),
            y=alt.Y("y:Q", title=y, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
            color=_colour(series),
            detail="line:N",
        )
    )
    if dashed:
        kinds = list(dict.fromkeys(str(row[dashed]) for row in rows))
        dash = alt.Scale(domain=kinds, range=[list(d) for d in DASHES[: len(kinds)]])
        chart = chart.encode(strokeDash=alt.StrokeDash(f"{dashed}:N", scale=dash, legend=None))
    elif len(series) > 1:
        chart = chart.encode(strokeDash=_dash(series))
    tips = [alt.Tooltip("line:N", title="run"), alt.Tooltip("x:Q", title=x), alt.Tooltip("y:Q", title=y, format=".4g")]
    points = chart.mark_point(filled=True, size=30 if few else 8, opacity=0.9).encode(
        shape=_shape(series), tooltip=tips
    )
    return _spec(alt.layer(chart, points), 200, rows=rows)


def _colour(series: Sequence[Series]) -> Any:
    import altair as alt

    scale = alt.Scale(domain=[s.label for s in series], range=[s.colour for s in series])
    return alt.Color("series:N", scale=scale, legend=None)


def _shape(series: Sequence[Series]) -> Any:
    import altair as alt

    scale = alt.Scale(domain=[s.label for s in series], range=[s.shape for s in series])
    return alt.Shape("series:N", scale=scale, legend=None)


def _dash(series: Sequence[Series]) -> Any:
    import altair as alt

    used = [list(DASHES[i % len(DASHES)]) for i in range(len(series))]
    scale = alt.Scale(domain=[s.label for s in series], range=used)
    return alt.StrokeDash("series:N", scale=scale, legend=None)


def _spec(chart: Any, height: int, **data: Rows) -> dict[str, Any]:
    """A chart as a specification, as wide as its column. ``data``: its named data, which Altair does not look into."""
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict(validate=False)
    spec |= {"config": CONFIG, "autosize": {"type": "fit-x", "contains": "padding"}}
    return _without_separators(spec | {"datasets": {name: list(rows) for name, rows in data.items()}})


def _without_separators(spec: dict[str, Any]) -> dict[str, Any]:
    """Put spaces for the line separators of Unicode, which end a string in Vega's expressions."""
    found: dict[str, Any] = json.loads(json.dumps(spec).replace("\\u2028", " ").replace("\\u2029", " "))
    return found
