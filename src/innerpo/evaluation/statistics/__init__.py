"""Intervals of means, comparisons and frontier gains: pure functions on arrays, explained in docs/statistics.md."""

from collections.abc import Callable, Sequence

import polars as pl

from innerpo.evaluation.statistics.bootstrap import clustered_bootstrap, hierarchical_bootstrap
from innerpo.evaluation.statistics.corrections import holm
from innerpo.evaluation.statistics.frontier import Curve, Sweep, frontier_gain, seed_gains
from innerpo.evaluation.statistics.one_run import one_run, proportion
from innerpo.evaluation.statistics.paired import Comparison, compare, differences
from innerpo.evaluation.statistics.power import minimum_detectable_difference
from innerpo.evaluation.statistics.records import (
    DIFFERENCE,
    UNIT,
    UNKNOWN,
    Bounds,
    Clustered,
    Estimate,
    Values,
    clustered,
)
from innerpo.evaluation.statistics.seeds import seeds_by_prompts
from innerpo.evaluation.statistics.significance import McNemar, mcnemar, p_value, sign_flip
from innerpo.evaluation.statistics.suites import over_shifts, suite

__all__ = [
    "DIFFERENCE",
    "UNIT",
    "UNKNOWN",
    "Bounds",
    "Clustered",
    "Comparison",
    "Curve",
    "Estimate",
    "McNemar",
    "Statistic",
    "Sweep",
    "Values",
    "accuracy",
    "clustered",
    "clustered_bootstrap",
    "compare",
    "differences",
    "frontier_gain",
    "hierarchical_bootstrap",
    "holm",
    "mcnemar",
    "minimum_detectable_difference",
    "one_run",
    "over_shifts",
    "p_value",
    "proportion",
    "seed_gains",
    "seeds_by_prompts",
    "sign_flip",
    "suite",
]

Statistic = Callable[[Values, Sequence[str]], Estimate]
"""One value per pair, and the prompt of each, to an estimate."""


def accuracy(outcomes: pl.DataFrame, statistic: Statistic = proportion) -> Estimate:
    """Return the accuracy over rows of ``pair_outcomes``, commonly those of one model and set, prompts as clusters."""
    return statistic(outcomes["outcome"].to_numpy(), outcomes["prompt"].to_list())
