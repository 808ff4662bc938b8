"""One run: prompts are drawn, each with all its pairs; the trained model is taken as it is."""

import math
from collections.abc import Sequence

import numpy as np

from innerpo.evaluation.statistics.components import padded_mean, prompt_parts
from innerpo.evaluation.statistics.intervals import errors, interval
from innerpo.evaluation.statistics.records import (
    PROMPTS,
    UNIT,
    UNKNOWN,
    Bounds,
    Clustered,
    Estimate,
    Values,
    clustered,
    unknown,
)


def one_run(data: Clustered, bounds: Bounds = UNIT) -> Estimate:
    """Mean over pairs with a 95 % interval for prompts drawn anew, each with all its pairs.

    The variance is the cluster-robust one of a ratio with the factor G / (G - 1) (Liang and Zeger 1986; Cameron and
    Miller 2015), t has G - 1 degrees of freedom, and for outcomes the interval is of Wilson's form, with the effective
    sample size in place of n. A quarter of a prompt that is entirely right, and a quarter of one entirely wrong, are
    added to the variance, so that it is above 0 where all pairs are right. With several seeds in ``data``, it is the
    interval of ``mean over these seeds`` for other prompts: the seeds are not covered. A single prompt has no interval.
    """
    mean = data.mean
    if math.isnan(mean) or data.n_clusters < 2:
        return unknown([data], PROMPTS, mean)
    averaged = Clustered(data.sums.mean(0, keepdims=True), data.counts)
    parts = prompt_parts(averaged, bounds)
    low, high = interval(mean, parts, bounds, padded_mean(averaged, bounds))
    pairs = int(data.counts.sum())
    return Estimate(mean, low, high, pairs, data.n_clusters, data.n_seeds, 1, PROMPTS, *errors(parts))


def proportion(values: Values, clusters: Sequence[str]) -> Estimate:
    """Mean of values in [0, 1] with the interval of ``one_run``; any NaN among the values makes it unknown."""
    if len(values) == 0 or np.isnan(values).any():
        return UNKNOWN
    return one_run(clustered(values[None], clusters))
