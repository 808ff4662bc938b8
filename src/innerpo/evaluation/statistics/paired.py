"""Two methods on the same prompts and seeds: what is estimated is the mean of the differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from innerpo.errors import UserError
from innerpo.evaluation.statistics.one_run import one_run
from innerpo.evaluation.statistics.power import minimum_detectable_difference
from innerpo.evaluation.statistics.records import DIFFERENCE, Clustered, Estimate
from innerpo.evaluation.statistics.seeds import seeds_by_prompts
from innerpo.evaluation.statistics.significance import p_value
from innerpo.evaluation.statistics.suites import suite


@dataclass(frozen=True)
class Comparison:
    """First minus second, the p of no difference, and the minimum detectable difference of the design."""

    difference: Estimate
    p: float
    detectable: float


def differences(first: Clustered, second: Clustered) -> Clustered:
    """Return first minus second, prompt by prompt and seed by seed. Raises UserError where these do not match."""
    if first.sums.shape != second.sums.shape or not np.array_equal(first.counts, second.counts):
        raise UserError(
            f"paired methods need the same seeds, prompts and pairs; they have {first.n_seeds} x {first.n_clusters}"
            f" and {second.n_seeds} x {second.n_clusters} of {first.counts.sum():g} and {second.counts.sum():g} pairs"
        )
    return Clustered(first.sums - second.sums, first.counts)


def compare(
    first: Clustered | Sequence[Clustered], second: Clustered | Sequence[Clustered], over_seeds: bool = True
) -> Comparison:
    """Compare two methods on one set, or on a suite (sequences, one a shift), at the level that the data have.

    The interval, and the t test that goes with it, are those of ``one_run``, ``seeds_by_prompts`` or ``suite`` on the
    differences, which lie in [-1, 1] (Miller 2024, arXiv 2411.00640). ``over_seeds=False``: on one set, for these
    seeds only.
    """
    if isinstance(first, Clustered) and isinstance(second, Clustered):
        pairs = differences(first, second)
        found = seeds_by_prompts(pairs, DIFFERENCE) if over_seeds else one_run(pairs, DIFFERENCE)
    elif not isinstance(first, Clustered) and not isinstance(second, Clustered):
        found = suite([differences(a, b) for a, b in zip(first, second, strict=True)], DIFFERENCE)
    else:
        raise UserError("a suite is compared with a suite, and one set with one set")
    return Comparison(found, p_value(found), minimum_detectable_difference(found))
