"""The section on strength: accuracy on a shift against accuracy in distribution, as the update is scaled."""

from collections.abc import Sequence

from innerpo.evaluation.curves import Curve, CurvePoint, Gain, curves, gains
from innerpo.evaluation.report import charts
from innerpo.evaluation.report.cells import interval, number, short_name, text
from innerpo.evaluation.report.records import Figure, Section, Series, Table
from innerpo.evaluation.study import Study
from innerpo.evaluation.study_runs import row_named

ABOUT = (
    "A curve is one method with its update multiplied by 0 (the base) up to the largest strength that was scored; the "
    "large point is strength 1, the policy as trained. Scaling costs no training, so a method is compared with the "
    "whole curve of another and not with one point: higher at the same accuracy in distribution is better.",
    "Thick lines are means over seeds, thin lines single seeds. The lines have no intervals; the table of gains has.",
)


def strength_section(study: Study, series: tuple[Series, ...]) -> Section | None:
    """Return a chart per shift and the table of frontier gains, or None where one strength alone was scored."""
    found = [curve for curve in curves(study) if len({point.strength for point in curve.points} - {0.0}) > 1]
    if not found:
        return None
    used = tuple(s for s in series if any(curve.method == s.label for curve in found))
    shifts = list(dict.fromkeys((curve.source, curve.target) for curve in found))
    figures = tuple(_figure([c for c in found if (c.source, c.target) == shift], shift, used) for shift in shifts)
    baseline = baseline_of([curve.method for curve in found])
    compared = gains(study, baseline) if len(used) > 1 else []
    tables = (gain_table(compared, baseline),) if compared else ()
    return Section("strength", "Test against out of distribution, by strength", ABOUT, tables, figures, used)


def baseline_of(methods: Sequence[str]) -> str:
    """Return the method that others are compared with: dpo where it is among them, else the first."""
    return row_named("dpo", methods) or methods[0]


def gain_table(found: Sequence[Gain], baseline: str) -> Table:
    """Return frontier gain, plain difference and gain at equal drift of every method and shift, in points."""
    estimates = [(gain, (gain.frontier, gain.plain, gain.equal_drift)) for gain in found if gain.method != baseline]
    rows = tuple(
        (
            text(gain.method),
            text(short_name(gain.source)),
            text(short_name(gain.target)),
            *(interval(100 * e.mean, 100 * e.low, 100 * e.high, 1, True) for e in three),
        )
        for gain, three in estimates
    )
    levels = sorted({e.level for _, three in estimates for e in three if e.level})
    covers = f", 95 % intervals over {' and '.join(levels)}" if levels else ""
    notes = (
        "Frontier gain: the mean difference between two curves over the accuracies in distribution that both reach.",
        "An interval that holds 0 is no difference found.",
    )
    columns = ("method", "source", "shift", "frontier gain", "at strength 1", "at equal drift")
    return Table(f"Gain over {baseline} out of distribution, percentage points{covers}", columns, rows, notes)


def _figure(found: Sequence[Curve], shift: tuple[str, str], series: tuple[Series, ...]) -> Figure:
    source, target = shift
    rows, data = [], []
    for curve in found:
        rows += [_row(curve, point, curve.method, True) for point in _ordered(curve.points)]
        if len(curve.by_seed) > 1:
            for seed, points in curve.by_seed.items():
                rows += [_row(curve, point, f"{curve.method}, seed {seed}", False) for point in _ordered(points)]
        data += [
            (text(curve.method), *(number(v) for v in (p.strength, p.test, p.oos, p.drift)))
            for p in _ordered(curve.points)
        ]
    used = tuple(s for s in series if any(row["series"] == s.label for row in rows))
    base = next(((p.test, p.oos) for curve in found for p in curve.points if p.strength == 0.0), None)
    columns = ("method", "strength", "test", short_name(target), "drift, nats per token")
    table = Table(f"Accuracy by strength: trained on {short_name(source)}", columns, tuple(data))
    return Figure(
        f"strength-{target}",
        short_name(target),
        f"Trained on {short_name(source)}.",
        f"Accuracy on {short_name(target)} against that on test, by strength, of {len(used)} methods; see the table.",
        charts.curve(rows, used, base),
        table,
    )


def _ordered(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    return sorted(points, key=lambda point: point.strength)


def _row(curve: Curve, point: CurvePoint, line: str, mean: bool) -> dict[str, object]:
    values = {"strength": point.strength, "test": point.test, "oos": point.oos}
    return {"series": curve.method, "line": line, "mean": mean} | values
