"""What a comparison could have found: the smallest difference with 80 % power in the design at hand."""

import math

from scipy.special import gammaln, nctdtrinc, stdtrit

from innerpo.evaluation.statistics.records import NAN, Estimate


def minimum_detectable_difference(difference: Estimate, power: float = 0.8, level: float = 0.05) -> float:
    """Return the true difference that a two-sided t test would find with this power, in a repeat of the design.

    delta = lambda se / c(df), where lambda is the noncentrality at which t with df degrees of freedom exceeds its
    1 - level / 2 quantile with probability ``power`` (Miller 2024, arXiv 2411.00640, with t for the normal), and
    c = sqrt(2 / df) Gamma((df + 1) / 2) / Gamma(df / 2) makes the estimated standard error unbiased. In the units of
    the mean. NaN where the standard error is not known.
    """
    if math.isnan(difference.se) or not difference.df > 0.0:
        return NAN
    noncentrality = float(nctdtrinc(difference.df, 1.0 - power, stdtrit(difference.df, 1.0 - level / 2.0)))
    return noncentrality * difference.se / unbiasing(difference.df)


def unbiasing(df: float) -> float:
    """Return E[s] / sigma for the root s of a variance estimate with ``df`` degrees of freedom, normal data."""
    return math.sqrt(2.0 / df) * math.exp(float(gammaln((df + 1.0) / 2.0)) - float(gammaln(df / 2.0)))
