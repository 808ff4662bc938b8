"""From a mean and the parts of its variance to an interval that stays within its bounds."""

import math
from collections.abc import Sequence

from innerpo.evaluation.statistics.components import Part, effective_df, total, weighted_t
from innerpo.evaluation.statistics.records import NAN, UNIT, Bounds


def interval(mean: float, parts: Sequence[Part], bounds: Bounds, centre: float | None = None) -> tuple[float, float]:
    """Return the 95 % interval: of Wilson's form for outcomes in [0, 1], else mean -+ t se, clipped to the bounds.

    ``centre``: the mean of outcomes at which the variance was estimated, not 0 or 1 (``components.padded_mean``); None
    for figures that are no outcomes.
    """
    half = weighted_t(parts) * math.sqrt(total(parts))
    if centre is None or bounds != UNIT:
        return max(bounds[0], mean - half), min(bounds[1], mean + half)
    return wilson(mean, half**2 / (centre * (1.0 - centre)))


def wilson(mean: float, ratio: float) -> tuple[float, float]:
    """Return the values p with (mean - p)^2 <= ratio p (1 - p) (Wilson 1927, doi 10.1080/01621459.1927.10502953).

    For n independent outcomes the ratio is z^2 / n. Here it is t^2 se^2 / (p (1 - p)) at the estimate: z becomes t, and
    n becomes the number of independent outcomes that would give the same standard error, the effective sample size.
    """
    return _lower(mean, ratio), 1.0 - _lower(1.0 - mean, ratio)


def _lower(mean: float, ratio: float) -> float:
    """Return the smaller root, from the larger and their product, which is exactly 0 at a mean of 0."""
    larger = mean + ratio / 2.0 + math.sqrt(ratio * mean * (1.0 - mean) + ratio**2 / 4.0)
    return mean**2 / larger if larger > 0.0 else 0.0


def errors(parts: Sequence[Part]) -> tuple[float, float]:
    """Return the standard error and its effective degrees of freedom."""
    variance = total(parts)
    return (math.sqrt(variance), effective_df(parts)) if math.isfinite(variance) else (NAN, NAN)
