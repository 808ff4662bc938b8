"""A method on a suite: shifts, training seeds and prompts are drawn; every shift counts the same."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from innerpo.errors import UserError
from innerpo.evaluation.statistics.components import Part, crossed, mean_squares, padded_mean, prompt_parts
from innerpo.evaluation.statistics.intervals import errors, interval
from innerpo.evaluation.statistics.records import SHIFTS, SHIFTS_ONE_SEED, UNIT, Bounds, Clustered, Estimate, unknown
from innerpo.evaluation.statistics.seeds import seeds_by_prompts

UNBOUNDED: Bounds = (-math.inf, math.inf)


def suite(data: Sequence[Clustered], bounds: Bounds = UNIT) -> Estimate:
    """Mean over shifts of their means, with a 95 % interval for shifts, training seeds and prompts drawn anew.

    The table of shifts x seeds is treated as ``seeds_by_prompts`` treats seeds x prompts, with shifts in place of
    prompts. Prompts belong to one shift, so what they vary by is in the differences between shifts. The part of the
    shifts is at least what their prompts alone would give. One shift: as ``seeds_by_prompts``. One seed: shifts and
    prompts are covered, seeds are not. Raises UserError where shifts differ in their number of seeds, or there is none.
    """
    if not data:
        raise UserError("a suite without shifts has no mean")
    if len({d.n_seeds for d in data}) > 1:
        raise UserError(
            f"the shifts of a suite need the same seeds; they have {sorted({d.n_seeds for d in data})} of them"
        )
    if len(data) == 1:
        return seeds_by_prompts(data[0], bounds)
    level = SHIFTS if data[0].n_seeds > 1 else SHIFTS_ONE_SEED
    table = np.array([d.seed_means for d in data])
    mean = float(table.mean())
    if math.isnan(mean) or min(d.n_clusters for d in data) < 2:
        return unknown(data, level, mean)
    least = sum(prompt_parts(d, bounds)[-1].variance for d in data) / len(data) ** 2
    parts = table_parts(table, least)
    low, high = interval(mean, parts, bounds, float(np.mean([padded_mean(d, bounds) for d in data])))
    blank = unknown(data)
    return Estimate(mean, low, high, blank.n, blank.clusters, blank.seeds, len(data), level, *errors(parts))


def over_shifts(table: Float[np.ndarray, "shift seed"], bounds: Bounds = UNBOUNDED) -> Estimate:
    """Mean of one figure per shift and seed (a gain, a drift), with a 95 % interval for shifts and seeds drawn anew.

    For figures that are not means of outcomes. mean -+ t se, clipped to the bounds. ``n`` and ``clusters`` are 0.
    """
    shifts, seeds = table.shape
    level = SHIFTS if seeds > 1 else SHIFTS_ONE_SEED
    mean, nan = float(table.mean()) if table.size else math.nan, math.nan
    if math.isnan(mean) or shifts < 2:
        return Estimate(mean, nan, nan, 0, 0, seeds, shifts, level)
    parts = table_parts(table, 0.0)
    low, high = interval(mean, parts, bounds)
    return Estimate(mean, low, high, 0, 0, seeds, shifts, level, *errors(parts))


def table_parts(table: Float[np.ndarray, "shift seed"], least: float) -> tuple[Part, ...]:
    """Return the variance of a table's mean: parts (shifts, seeds), that of shifts at least ``least``."""
    shifts, seeds = table.shape
    if seeds == 1:
        return (Part(max(float(table.var(ddof=1)) / shifts, least), float(shifts - 1)),)
    of_shifts, of_seeds = crossed(mean_squares(table), shifts, seeds)
    return Part(max(of_shifts.variance, least), of_shifts.df), of_seeds
