"""The variance of a mean in parts, each with its degrees of freedom, and the t that belongs to their sum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import stdtrit

from innerpo.evaluation.statistics.records import UNIT, Bounds, Clustered

QUANTILE = 0.975

ADDED = 0.25
"""Prompts entirely right, and as many entirely wrong, whose squares are added to those of outcomes."""

ADDED_TO_NONE = 1.0
"""Prompts won, and as many lost, that are added where no difference is seen: about the rule of three."""


@dataclass(frozen=True)
class Part:
    """One part of the variance of a mean, and the degrees of freedom of its estimate."""

    variance: float
    df: float


def total(parts: Sequence[Part]) -> float:
    """Return the variance of the mean."""
    return sum(part.variance for part in parts)


def weighted_t(parts: Sequence[Part], quantile: float = QUANTILE) -> float:
    """Return the quantile for the sum of the parts: the mean of their t quantiles, weighted by their variances.

    t' = sum_i v_i t(q, df_i) / sum_i v_i, Cochran and Cox's answer to the Behrens-Fisher problem. A part of few degrees
    of freedom counts by its share. Satterthwaite's single df, computed from the same estimates, is too large whenever
    the part of few degrees of freedom comes out small by chance, and then covers too little (docs/statistics.md).
    """
    whole = total(parts)
    if whole == 0.0:
        return max(float(stdtrit(part.df, quantile)) for part in parts)
    return sum(part.variance * float(stdtrit(part.df, quantile)) for part in parts) / whole


def effective_df(parts: Sequence[Part]) -> float:
    """Return the degrees of freedom whose .975 quantile of t is ``weighted_t(parts)``."""
    few, many = min(part.df for part in parts), max(part.df for part in parts)
    aim = weighted_t(parts)
    if few == many or aim >= stdtrit(few, QUANTILE):
        return float(few)
    if aim <= stdtrit(many, QUANTILE):
        return float(many)
    return float(brentq(lambda df: stdtrit(df, QUANTILE) - aim, few, many, xtol=1e-9, rtol=1e-12))


def linearised(data: Clustered) -> Float[np.ndarray, "seed cluster"]:
    """Return values whose plain mean over prompts varies as the mean over pairs does, in the units of the mean.

    u_sg = G (y_sg - ybar n_g) / N, for prompts of n_g pairs with sums y_sg, N = sum n_g: the influence of a prompt on
    a ratio (Liang and Zeger 1986). Their mean over all seeds and prompts is 0.
    """
    residuals = data.sums - data.mean * data.counts
    return np.asarray(data.n_clusters * residuals / data.counts.sum())


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of a table of rows x columns with one value a cell: rows, columns, and what is left."""

    rows: float
    columns: float
    left: float


def mean_squares(table: Float[np.ndarray, "row column"]) -> MeanSquares:
    """Return the mean squares of a two-way table; at least two rows and two columns."""
    n_rows, n_columns = table.shape
    rows, columns, mean = table.mean(1), table.mean(0), table.mean()
    left = table - rows[:, None] - columns + mean
    return MeanSquares(
        n_columns * float(np.square(rows - mean).sum()) / (n_rows - 1),
        n_rows * float(np.square(columns - mean).sum()) / (n_columns - 1),
        float(np.square(left).sum()) / ((n_rows - 1) * (n_columns - 1)),
    )


def crossed(squares: MeanSquares, n_rows: int, n_columns: int, added: float = 0.0) -> tuple[Part, Part]:
    """Return the variance of a table's mean, where rows and columns are drawn at random: parts of rows and of columns.

    With effects of rows, columns and cells, Var = s_r^2 / R + s_c^2 / C + s_rc^2 / (R C), estimated by (MS_r + MS_c -
    MS_rc) / (R C). The effect of cells is in both MS_r and MS_c. It is left with the one of fewer levels, whose
    means it varies with; the other has MS - MS_rc, at least 0. ``added`` is added to the mean square of columns.
    """
    cells = n_rows * n_columns
    if n_rows <= n_columns:
        rows, columns = squares.rows, max(squares.columns - squares.left, 0.0)
    else:
        rows, columns = max(squares.rows - squares.left, 0.0), squares.columns
    return Part(rows / cells, float(n_rows - 1)), Part((columns + added) / cells, float(n_columns - 1))


def padded_mean(data: Clustered, bounds: Bounds) -> float:
    """Return the mean with ``ADDED`` prompts at each bound, of the mean number of pairs: never at a bound itself."""
    weight = ADDED / data.n_clusters
    return (data.mean + weight * sum(bounds)) / (1.0 + 2.0 * weight)


def added_square(data: Clustered, bounds: Bounds) -> float:
    """Return what the added prompts add to the mean square of prompts, for one seed.

    To outcomes always: their number of wrong (or right) prompts may be small. To differences only where all are the
    same (0, say): otherwise their variance is far from 0, and more would make their interval too wide
    (docs/statistics.md).
    """
    if not all(math.isfinite(bound) for bound in bounds) or (bounds != UNIT and not _is_constant(data)):
        return 0.0
    centre, weight = padded_mean(data, bounds), ADDED if bounds == UNIT else ADDED_TO_NONE
    squares = sum((bound - centre) ** 2 for bound in bounds)
    return weight * squares / (data.n_clusters - 1)


def _is_constant(data: Clustered) -> bool:
    """Whether the mean of every prompt and seed is that of all, to rounding."""
    scale = np.abs(data.sums).max(initial=0.0)
    return bool(np.abs(data.sums - data.mean * data.counts).max(initial=0.0) <= 1e-12 * scale)


def prompt_parts(data: Clustered, bounds: Bounds) -> tuple[Part, ...]:
    """Return the variance of a mean over prompts, and over seeds where there are several: parts (seeds, prompts).

    The added prompts of ``added_square`` agree between seeds as far as the prompts do: with S seeds their mean square
    is 1 + (S - 1) r times that of one seed, r the correlation between seeds of the prompts' values.
    """
    seeds, prompts = data.n_seeds, data.n_clusters
    values, added = linearised(data), added_square(data, bounds)
    if seeds == 1:
        square = float(np.square(values).sum()) / (prompts - 1)
        return (Part((square + added) / prompts, float(prompts - 1)),)
    squares = mean_squares(values)
    columns = squares.columns + seeds * added
    whole = columns + (seeds - 1) * squares.left
    r = min(max((columns - squares.left) / whole, 0.0), 1.0) if whole > 0.0 else 1.0
    return crossed(squares, seeds, prompts, (1.0 + (seeds - 1) * r) * added)
