"""Curves: accuracy in and out of distribution by strength of the adapter, and what a method gains over another's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from innerpo.errors import UserError
from innerpo.evaluation import statistics
from innerpo.evaluation.estimates import compare_grids
from innerpo.evaluation.grids import Grid, on_prompts, on_seeds
from innerpo.evaluation.statistics import UNKNOWN, Estimate, Sweep, frontier_gain, over_shifts, seed_gains
from innerpo.evaluation.study import Study
from innerpo.evaluation.study_runs import row_named
from innerpo.evaluation.sweeps import Swept, sweeps
from innerpo.registry import METRICS, resolve


@dataclass(frozen=True)
class CurvePoint:
    """A policy at one strength: accuracy on the test set and on the target, output drift on the target (nats/token)."""

    strength: float
    test: float
    oos: float
    drift: float


@dataclass(frozen=True)
class Curve:
    """A method on one shift, its points in order of strength, of the mean over seeds and of each seed.

    Strength 0 is the base. ``target`` is the name of the set. A point that was not scored for every seed is left out.
    """

    method: str
    source: str
    target: str
    points: tuple[CurvePoint, ...]
    by_seed: Mapping[int, tuple[CurvePoint, ...]]


@dataclass(frozen=True)
class Gain:
    """What a method gains over a baseline on one shift, in accuracy out of distribution.

    ``frontier``: at equal accuracy in distribution, over both curves; ``equal_drift``: at equal output drift;
    ``plain``: both as trained (strength 1). Unknown where a curve has fewer than two points, or no common range.
    """

    method: str
    baseline: str
    source: str
    target: str
    frontier: Estimate
    plain: Estimate
    equal_drift: Estimate


def curves(study: Study, scorer: str = "mean_logp") -> list[Curve]:
    """Return the curve of every method on every shift that it was scored on. Raises UserError for an unknown scorer."""
    return [_curve(swept) for swept in sweeps(study, scorer)]


def gains(study: Study, baseline: str = "dpo", scorer: str = "mean_logp") -> list[Gain]:
    """Return the gain of every other method over a baseline, on every shift that both were scored on.

    The frontier gain is ``statistics.frontier_gain``. Methods are paired by the seeds that both have; where they share
    none, seeds are paired in their order. ``dpo`` stands for dpo+3fa9c1d2 too, if only one row is called so. Raises
    UserError where the study has no such method.
    """
    return [_gain(method, base) for method, base in _opposite(study, baseline, scorer)]


def suite_gains(study: Study, baseline: str = "dpo", scorer: str = "mean_logp") -> list[Gain]:
    """Return the mean gain over the shifts of a suite, of every method that was scored on at least two of them.

    It is the mean over shifts and seeds of the gains of single seeds (``statistics.over_shifts``), for the seeds that
    all shifts share. ``source`` is empty and ``target`` says over how many shifts. Raises UserError as ``gains`` does.
    """
    by_method: dict[str, list[tuple[Swept, Swept]]] = {}
    for method, base in _opposite(study, baseline, scorer):
        by_method.setdefault(method.method, []).append((method, base))
    return [_mean_gain(pairs) for pairs in by_method.values() if len(pairs) > 1]


def _opposite(study: Study, baseline: str, scorer: str) -> list[tuple[Swept, Swept]]:
    """Each other method on each shift, with the baseline on the same."""
    every = sweeps(study, scorer)
    methods = [s.method for s in every]
    found = row_named(baseline, methods)
    if found is None:
        known = ", ".join(dict.fromkeys(methods))
        raise UserError(f"there is no method {baseline!r} in the study to compare curves with; there are {known}")
    base = {(s.source, s.target): s for s in every if s.method == found}
    others = [s for s in every if s.method != found and (s.source, s.target) in base]
    return [(s, base[s.source, s.target]) for s in others]


def _curve(swept: Swept) -> Curve:
    def points(seeds: Sequence[int]) -> tuple[CurvePoint, ...]:
        means = {name: [_mean(g, seeds) for g in found] for name, found in swept.grids.items()}
        rows = zip(swept.strengths, means["test"], means["oos"], means["drift"], strict=True)
        return tuple(CurvePoint(*row) for row in rows)

    by_seed = {seed: points([i]) for i, seed in enumerate(swept.seeds)}
    return Curve(swept.method, swept.source, swept.target, points(range(len(swept.seeds))), by_seed)


def _mean(grid: Grid, seeds: Sequence[int]) -> float:
    """The mean over some of a grid's seeds, by their places."""
    return float(grid.values[list(seeds)].mean(0).sum() / grid.weights.sum())


_Side = Mapping[str, Sequence[Grid]]
"""A method's grids by strength: test, oos, drift."""


def _gain(method: Swept, base: Swept) -> Gain:
    one, other = _sides(method, base, sorted(set(method.seeds) & set(base.seeds)))
    at_test, at_drift = (
        UNKNOWN if curves is None else frontier_gain(*curves, same_prompts=x == "drift")
        for x, curves in ((x, _both_curves(one, other, x)) for x in ("test", "drift"))
    )
    plain = _plain([method], [base])
    return Gain(method.method, base.method, method.source, method.target, at_test, plain, at_drift)


def _mean_gain(pairs: Sequence[tuple[Swept, Swept]]) -> Gain:
    """The mean over shifts."""
    seeds = sorted(set.intersection(*({*m.seeds} & {*b.seeds} for m, b in pairs)))
    found = []
    for x in ("test", "drift"):
        both = [_both_curves(*_sides(m, b, seeds), x) for m, b in pairs] if seeds else [None]
        known = [seed_gains(*curves) for curves in both if curves is not None]
        found.append(over_shifts(np.stack(known), (-1.0, 1.0)) if len(known) == len(pairs) else UNKNOWN)
    method, base = pairs[0]
    plain = _plain([m for m, _ in pairs], [b for _, b in pairs])
    return Gain(method.method, base.method, "", f"mean of {len(pairs)} shifts", found[0], plain, found[1])


def _sides(method: Swept, base: Swept, seeds: Sequence[int]) -> tuple[_Side, _Side]:
    """Both on the same prompts and seeds; without a common seed, seeds are paired in their order."""
    n = min(len(method.seeds), len(base.seeds))
    pairs = [(s, s) for s in seeds] or list(zip(method.seeds[:n], base.seeds[:n], strict=True))
    sides = [_paired_sweeps(swept, [p[i] for p in pairs]) for i, swept in enumerate((method, base))]
    one, other = ({name: _on_both(side[name], sides[1 - i][name]) for name in side} for i, side in enumerate(sides))
    return one, other


def _paired_sweeps(swept: Swept, seeds: Sequence[int]) -> dict[str, tuple[Grid, ...]]:
    return {name: tuple(on_seeds(g, seeds) for g in found) for name, found in swept.grids.items()}


def _on_both(found: Sequence[Grid], others: Sequence[Grid]) -> tuple[Grid, ...]:
    prompts = sorted(set(found[0].prompts) & set(others[0].prompts))
    return tuple(on_prompts(g, prompts) for g in found)


def _both_curves(method: _Side, base: _Side, x: str) -> tuple[statistics.Curve, statistics.Curve] | None:
    """Both curves of accuracy on the target against ``x`` (test or drift); None where they cannot be compared."""
    if min(len(method[x]), len(base[x])) < 2 or not method[x][0].prompts or not method["oos"][0].prompts:
        return None
    if any(not np.array_equal(method[name][0].weights, base[name][0].weights) for name in (x, "oos")):
        return None  # scored on other pairs of the same prompts
    one, other = (statistics.Curve(_as_sweep(side[x]), _as_sweep(side["oos"])) for side in (method, base))
    return one, other


def _as_sweep(found: Sequence[Grid]) -> Sweep:
    return Sweep(np.stack([g.values for g in found]), found[0].weights)


def _plain(methods: Sequence[Swept], bases: Sequence[Swept]) -> Estimate:
    """The difference of accuracy on the target, or its mean over targets, both at strength 1."""
    sides = []
    for found in (methods, bases):
        if any(1.0 not in swept.strengths for swept in found):
            return UNKNOWN
        sides.append([swept.grids["oos"][swept.strengths.index(1.0)] for swept in found])
    return compare_grids(sides[0], sides[1], resolve(METRICS, "accuracy", "metric")).difference
