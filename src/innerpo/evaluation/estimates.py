"""Estimates of a metric from its grids: the one place where tables and comparisons call the statistics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from innerpo.evaluation.columns import Column, Member
from innerpo.evaluation.grids import NO_SEED, Cells, Grid, once, paired, paired_seeds
from innerpo.evaluation.metrics.metric import Metric
from innerpo.evaluation.statistics import (
    UNKNOWN,
    Clustered,
    Estimate,
    mcnemar,
    minimum_detectable_difference,
    p_value,
    seeds_by_prompts,
    sign_flip,
    suite,
)

UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class PairedTest:
    """A difference with its interval, and the p of no difference: by t; by McNemar's test and by sign flips (or NaN).

    ``detectable``: the smallest true difference that this design finds with 80 % power.
    """

    difference: Estimate
    p: float
    p_mcnemar: float
    p_sign_flip: float
    detectable: float


NO_TEST = PairedTest(UNKNOWN, math.nan, math.nan, math.nan, math.nan)


def estimate(grids: Sequence[Grid | None], metric: Metric) -> Estimate:
    """Return a metric on one set, or its mean over the sets of a suite, with a 95 % interval.

    With one seed the interval is over prompts, with several over seeds and prompts, for a suite over shifts too.
    Unknown where a set was not scored or a value is NaN.
    """
    known = _usable(grids)
    if known is None:
        return UNKNOWN
    found = _over(known, metric.bounds or UNBOUNDED)
    return _exponential(found) if metric.transform == "exp" else found


def statistic_of(values: pl.DataFrame, row: str, column: Column, metric: Metric) -> Estimate:
    """Return a metric that is no mean: its mean over runs and sets, without an interval."""
    if metric.statistic is None:
        raise ValueError(f"{metric.title} is a mean; estimate it from its grids")
    found, values = [], once(values)
    for source, dataset, split, role in column.members:
        same = (pl.col("source") == source) & (pl.col("dataset") == dataset) & (pl.col("split") == split)
        rows = values.filter(same, pl.col("row") == row, pl.col("role") == role)
        by_run = [metric.statistic(part) for part in rows.partition_by("run", maintain_order=True)]
        if not by_run:
            return UNKNOWN
        found.append(by_run)
    mean = float(np.mean([np.mean(by_run) for by_run in found]))
    return replace(UNKNOWN, mean=mean, seeds=min(map(len, found)), shifts=len(found))


def compare_grids(a: Sequence[Grid | None], b: Sequence[Grid | None], metric: Metric) -> PairedTest:
    """Compare two rows of a table on a set, or on the sets of a suite, paired by prompt and seed: a - b."""
    first, second = _usable(a), _usable(b)
    if first is None or second is None:
        return NO_TEST
    pairs = [paired(x, y) for x, y in zip(first, second, strict=True)]
    known = _usable(pairs)
    if known is None:
        return NO_TEST
    low, high = metric.bounds or UNBOUNDED
    width = max(high - low, 0.0) if metric.bounds else math.inf
    found = _over(known, (-width, width))
    flipped = sign_flip(_clustered(known[0])) if len(known) == 1 else math.nan
    alone = len(known) == 1 and len(known[0].seeds) == 1
    exact = _mcnemar(first[0], second[0]) if alone else math.nan
    return PairedTest(found, p_value(found), exact, flipped, minimum_detectable_difference(found))


def at(cells: Cells, row: str, members: Sequence[Member]) -> list[Grid | None]:
    """Return a row's grids on some sets; None for one that was not scored."""
    return [cells.get((row, member)) for member in members]


def _usable(grids: Sequence[Grid | None]) -> list[Grid] | None:
    """The grids with the seeds that all of them have; None where one is missing or empty."""
    known = [g for g in grids if g is not None and len(g.prompts)]
    if not known or len(known) < len(grids):
        return None
    common = set.intersection(*(set(g.seeds) for g in known))
    if not common:
        return None
    return [g if len(g.seeds) == len(common) else _seeds(g, sorted(common)) for g in known]


def _seeds(grid: Grid, seeds: list[int]) -> Grid:
    return replace(grid, seeds=tuple(seeds), values=grid.values[[grid.seeds.index(s) for s in seeds]])


def _over(grids: Sequence[Grid], bounds: tuple[float, float]) -> Estimate:
    data = [_clustered(g) for g in grids]
    found = seeds_by_prompts(data[0], bounds) if len(data) == 1 else suite(data, bounds)
    return replace(found, n=sum(g.n for g in grids))


def _clustered(grid: Grid) -> Clustered:
    kept = grid.weights > 0
    return Clustered(grid.values[:, kept], grid.weights[kept])


def _mcnemar(a: Grid, b: Grid) -> float:
    """The p of McNemar's test where it applies: one pair a prompt, no ties; else NaN."""
    shared = sorted(set(a.prompts) & set(b.prompts))
    _, rows_a, rows_b = paired_seeds(a, b)
    sides = []
    for grid, rows in ((a, rows_a), (b, rows_b)):
        where = {prompt: i for i, prompt in enumerate(grid.prompts)}
        index = [where[prompt] for prompt in shared]
        sides.append(Clustered(grid.values[rows[:1]][:, index], grid.weights[index]))
    if any((s.counts != 1).any() or not np.isin(s.sums, (0.0, 1.0)).all() for s in sides):
        return math.nan
    return mcnemar(*sides).p


def _exponential(found: Estimate) -> Estimate:
    """exp of an estimate and its interval; the standard error by the delta method."""
    mean, low, high = (math.exp(x) for x in (found.mean, found.low, found.high))
    return replace(found, mean=mean, low=low, high=high, se=mean * found.se)


def trained_seeds(grids: Sequence[Grid | None]) -> tuple[int, ...]:
    """Return the training seeds behind some grids; empty for the base."""
    return tuple(sorted({s for g in grids if g is not None for s in g.seeds if s != NO_SEED}))
