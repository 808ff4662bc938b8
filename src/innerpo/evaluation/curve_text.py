"""Curves and gains as text cells, csv and JSON."""

import dataclasses
from collections.abc import Sequence

from innerpo.evaluation.curves import Curve, Gain
from innerpo.evaluation.formats import TextTable, estimate_text, json_text, number, render, rows_as_csv


def curve_text(found: Sequence[Curve]) -> TextTable:
    """Return curves as text cells: a row per method, shift and strength; means over seeds."""
    header = ("method", "shift", "strength", "test", "oos", "drift")
    rows = tuple(
        (c.method, f"{c.source} -> {c.target}", f"{p.strength:g}", number(p.test), number(p.oos), number(p.drift))
        for c in found
        for p in c.points
    )
    seeds: dict[str, dict[str, list[str]]] = {}
    for c in found:
        own = seeds.setdefault(c.method, {}).setdefault(", ".join(map(str, c.by_seed)), [])
        own.append(f"{c.source} -> {c.target}")
    lines = [
        f"{method}: seeds {which}" + (f" ({', '.join(shifts)})" if len(by_seeds) > 1 else "")
        for method, by_seeds in seeds.items()
        for which, shifts in by_seeds.items()
    ]
    notes = ("strength 0 is the base; drift in nats per token", *lines)
    return TextTable("Accuracy by strength of the adapter", header, rows, frozenset(), notes)


def gain_text(found: Sequence[Gain]) -> TextTable:
    """Return gains as text cells: a row per method and shift."""
    header = ("method", "shift", "at equal test accuracy", "at equal drift", "both as trained")
    rows = tuple(
        (
            g.method,
            f"{g.source} -> {g.target}" if g.source else g.target,
            *(estimate_text(e, signed=True) for e in (g.frontier, g.equal_drift, g.plain)),
        )
        for g in found
    )
    baseline = found[0].baseline if found else "the baseline"
    levels = ", ".join(dict.fromkeys(g.frontier.level for g in found))
    notes = (f"95 % intervals over {levels}; seeds are paired",) if levels else ()
    return TextTable(f"Accuracy out of distribution gained over {baseline}", header, rows, frozenset(), notes)


def render_curves(curves: Sequence[Curve], gains: Sequence[Gain], format: str) -> str:
    """Return curves and gains in a format but text; csv holds the curves alone, a line per seed and strength."""
    lines = [
        {"method": c.method, "source": c.source, "target": c.target, "seed": seed} | dataclasses.asdict(point)
        for c in curves
        for seed, points in c.by_seed.items()
        for point in points
    ]
    whole = {"curves": [dataclasses.asdict(c) for c in curves], "gains": [dataclasses.asdict(g) for g in gains]}
    data = {"csv": lambda: rows_as_csv(lines), "json": lambda: json_text(whole)}
    return render(format, data, lambda: [curve_text(curves), *([gain_text(gains)] if gains else [])])
