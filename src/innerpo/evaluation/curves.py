"""Curves: accuracy in and out of distribution by strength of the adapter, and what a method gains over another's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from innerpo.errors import UserError
from innerpo.evaluation import statistics
from innerpo.evaluation.estimates import compare_grids
from innerpo.evaluation.grids import Grid, on_prompts, on_seeds
from innerpo.evaluation.statistics import UNKNOWN, Estimate, Sweep, frontier_gain
from innerpo.evaluation.study import Study
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
    none, seeds are paired in their order. Raises UserError where the study has no such method.
    """
    every = sweeps(study, scorer)
    if baseline not in {s.method for s in every}:
        known = ", ".join(dict.fromkeys(s.method for s in every))
        raise UserError(f"there is no method {baseline!r} in the study to compare curves with; there are {known}")
    base = {(s.source, s.target): s for s in every if s.method == baseline}
    others = [s for s in every if s.method != baseline and (s.source, s.target) in base]
    return [_gain(s, base[s.source, s.target]) for s in others]


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


def _gain(method: Swept, base: Swept) -> Gain:
    seeds = sorted(set(method.seeds) & set(base.seeds))
    n = min(len(method.seeds), len(base.seeds))
    pairs = [(s, s) for s in seeds] or list(zip(method.seeds[:n], base.seeds[:n], strict=True))
    sides = [_paired_sweeps(swept, [p[i] for p in pairs]) for i, swept in enumerate((method, base))]
    one, other = ({name: _on_both(side[name], sides[1 - i][name]) for name in side} for i, side in enumerate(sides))
    frontier, drift = (_frontier(one, other, x) for x in ("test", "drift"))
    return Gain(method.method, base.method, method.source, method.target, frontier, _plain(method, base), drift)


def _paired_sweeps(swept: Swept, seeds: Sequence[int]) -> dict[str, tuple[Grid, ...]]:
    return {name: tuple(on_seeds(g, seeds) for g in found) for name, found in swept.grids.items()}


def _on_both(found: Sequence[Grid], others: Sequence[Grid]) -> tuple[Grid, ...]:
    prompts = sorted(set(found[0].prompts) & set(others[0].prompts))
    return tuple(on_prompts(g, prompts) for g in found)


def _frontier(method: Mapping[str, Sequence[Grid]], base: Mapping[str, Sequence[Grid]], x: str) -> Estimate:
    """The gain at equal ``x`` (test or drift)."""
    if min(len(method[x]), len(base[x])) < 2 or not method[x][0].prompts or not method["oos"][0].prompts:
        return UNKNOWN
    if any(not np.array_equal(method[name][0].weights, base[name][0].weights) for name in (x, "oos")):
        return UNKNOWN  # scored on other pairs of the same prompts
    one, other = (statistics.Curve(_as_sweep(side[x]), _as_sweep(side["oos"])) for side in (method, base))
    return frontier_gain(one, other, same_prompts=x == "drift")


def _as_sweep(found: Sequence[Grid]) -> Sweep:
    return Sweep(np.stack([g.values for g in found]), found[0].weights)


def _plain(method: Swept, base: Swept) -> Estimate:
    """The difference of accuracy on the target, both at strength 1."""
    at_one = []
    for swept in (method, base):
        if 1.0 not in swept.strengths:
            return UNKNOWN
        at_one.append([swept.grids["oos"][swept.strengths.index(1.0)]])
    return compare_grids(at_one[0], at_one[1], resolve(METRICS, "accuracy", "metric")).difference
