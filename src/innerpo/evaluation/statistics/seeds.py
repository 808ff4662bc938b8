"""A method on one set: training seeds and prompts are drawn."""

import math

from innerpo.evaluation.statistics.components import padded_mean, prompt_parts
from innerpo.evaluation.statistics.intervals import errors, interval
from innerpo.evaluation.statistics.one_run import one_run
from innerpo.evaluation.statistics.records import SEEDS, UNIT, Bounds, Clustered, Estimate, unknown


def seeds_by_prompts(data: Clustered, bounds: Bounds = UNIT) -> Estimate:
    """Mean over seeds and pairs with a 95 % interval for training seeds and prompts drawn anew.

    Every seed is scored on the same prompts, so seeds and prompts are crossed. The variance is that of the random
    effects of seeds, prompts and both, from the mean squares of the table of seeds x prompts (``components.crossed``).
    Each of its parts has the t quantile of its own degrees of freedom (``components.weighted_t``). With one seed, the
    seeds are not covered: the interval, and its ``level``, are those of ``one_run``.
    """
    if data.n_seeds == 1:
        return one_run(data, bounds)
    mean = data.mean
    if math.isnan(mean) or data.n_clusters < 2:
        return unknown([data], SEEDS, mean)
    parts = prompt_parts(data, bounds)
    low, high = interval(mean, parts, bounds, padded_mean(data, bounds))
    return Estimate(mean, low, high, int(data.counts.sum()), data.n_clusters, data.n_seeds, 1, SEEDS, *errors(parts))
