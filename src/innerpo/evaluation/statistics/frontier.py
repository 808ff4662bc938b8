"""Frontier gain: how much more of one figure a method keeps at an equal value of another, over strengths."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from innerpo.errors import UserError
from innerpo.evaluation.statistics.bootstrap import draw_weights
from innerpo.evaluation.statistics.components import Part
from innerpo.evaluation.statistics.intervals import errors, interval
from innerpo.evaluation.statistics.records import NAN, PROMPTS, SEEDS, Estimate

DRAWS = 1000

KNOWN = 0.95
"""Share of draws in which both curves must reach a common range, for an interval."""

Points = Float[np.ndarray, "draw strength"]
Others = Float[np.ndarray, "draw other_strength"]


@dataclass(frozen=True)
class Sweep:
    """One method on one set at several strengths, in rising order: sums of each prompt by strength and seed.

    ``counts``: what the sums are divided by, for each prompt: pairs for accuracies, completion tokens for a drift.
    """

    sums: Float[np.ndarray, "strength seed cluster"]
    counts: Float[np.ndarray, " cluster"]

    def means(self, seeds: Float[np.ndarray, "#draw seed"], prompts: Float[np.ndarray, "#draw cluster"]) -> Points:
        """Return the mean at each strength when seeds and prompts count by these weights; one row broadcasts."""
        strengths, n_seeds, clusters = self.sums.shape
        drawn = prompts @ self.sums.reshape(-1, clusters).T / (prompts @ self.counts)[:, None]
        by_seed = drawn.reshape(-1, strengths, n_seeds) * seeds[:, None, :]
        return np.asarray(by_seed.sum(2) / seeds.sum(1)[:, None])


@dataclass(frozen=True)
class Curve:
    """A method's curve: in-domain accuracy, or drift, on ``x``; accuracy out of distribution on ``y``."""

    x: Sweep
    y: Sweep


def frontier_gain(
    method: Curve, other: Curve, draws: int = DRAWS, seed: int = 0, same_prompts: bool = False
) -> Estimate:
    """Mean of y_method(x) - y_other(x) over the x that both curves reach (``gain_of_curves``), with a 95 % interval.

    Curves are those of the means over seeds. The interval is a bootstrap: seeds are drawn (the same for both methods
    and both sets), prompts of both sets are drawn (the same for both methods; ``same_prompts``: the same for both
    sets), and both curves are computed again. Three such bootstraps, of seeds alone, of prompts alone and of both,
    give the variance in parts (``_parts``); each part has the t quantile of its degrees of freedom, since percentiles
    over few seeds are too narrow. With one seed, ``level`` says that seeds are not covered. NaN where the curves reach
    no common range, or any sum is NaN; without an interval where that happens in more than 5 % of draws. Raises
    UserError where the methods have different seeds or prompts.
    """
    _check(method, other)
    n_seeds, of_x, of_y = method.x.sums.shape[1], len(method.x.counts), len(method.y.counts)
    level, nan = (SEEDS if n_seeds > 1 else PROMPTS), NAN
    ones = np.ones((1, n_seeds)), np.ones((1, of_x)), np.ones((1, of_y))
    gain = float(_gains(method, other, *ones)[0])
    n, prompts = int(method.y.counts.sum()), min(of_x, of_y)
    blank = Estimate(gain, nan, nan, n, prompts, n_seeds, 1, level)
    if math.isnan(gain) or prompts < 2:
        return blank
    rng = np.random.default_rng(seed)
    drawn_x = draw_weights(rng, of_x, draws)
    drawn_y = drawn_x if same_prompts else draw_weights(rng, of_y, draws)
    runs = [_gains(method, other, ones[0], drawn_x, drawn_y)]
    if n_seeds > 1:
        drawn = draw_weights(rng, n_seeds, draws)
        runs += [_gains(method, other, drawn, *ones[1:]), _gains(method, other, drawn, drawn_x, drawn_y)]
    if min(float(np.isfinite(run).mean()) for run in runs) < KNOWN:
        return blank
    parts = _parts([float(np.nanvar(run, ddof=1)) for run in runs], n_seeds, prompts)
    low, high = interval(gain, parts, (-1.0, 1.0))
    return Estimate(gain, low, high, n, prompts, n_seeds, 1, level, *errors(parts))


def seed_gains(method: Curve, other: Curve) -> Float[np.ndarray, " seed"]:
    """Return the gain of each seed's own curves: for the mean over shifts and seeds of a suite (``over_shifts``).

    NaN for a seed whose curves reach no common range. Raises UserError as ``frontier_gain`` does.
    """
    _check(method, other)
    each = np.eye(method.x.sums.shape[1])
    return _gains(method, other, each, np.ones((1, len(method.x.counts))), np.ones((1, len(method.y.counts))))


def _parts(variances: list[float], seeds: int, prompts: int) -> tuple[Part, ...]:
    """Return parts (seeds, prompts) from the variances of draws of prompts, of seeds, and of both.

    Draws of S seeds vary by (S - 1) / S of what they should. The effect of seed and prompt together is in the draws of
    seeds and in those of prompts; what draws of both vary by beyond the sum is that effect once more (Owen 2007, doi
    10.1214/07-AOAS122), and is taken from the prompts' part, as ``components.crossed`` does.
    """
    if seeds == 1:
        return (Part(variances[0], float(prompts - 1)),)
    of_prompts, of_seeds, of_both = variances
    together = min(max(of_both - of_prompts - of_seeds, 0.0), of_prompts)
    return Part(of_seeds * seeds / (seeds - 1), float(seeds - 1)), Part(of_prompts - together, float(prompts - 1))


def _gains(
    method: Curve,
    other: Curve,
    seeds: Float[np.ndarray, "#draw seed"],
    of_x: Float[np.ndarray, "#draw cluster_x"],
    of_y: Float[np.ndarray, "#draw cluster_y"],
) -> Float[np.ndarray, " any_draw"]:
    points = [s.means(seeds, w) for c in (method, other) for s, w in ((c.x, of_x), (c.y, of_y))]
    return gain_of_curves(*points)


def gain_of_curves(x_m: Points, y_m: Points, x_d: Others, y_d: Others) -> Float[np.ndarray, " draw"]:
    """Return the mean over x, in the range that both curves reach, of y_m(x) - y_d(x); NaN where there is no range.

    A curve goes in straight lines through its points, in order of strength. It need not be monotone: accuracy can fall
    again at large strengths. y(x) is the y where the curve *first* reaches x, at the smallest strength. So two sweeps
    of one underlying path have the same y(x) up to the straight lines, whatever part of its way back each of them sees.
    Between neighbouring x of points both are linear, so their difference at the middle, weighted by the distance,
    gives the integral exactly. ``x_m``, ``y_m`` and ``x_d``, ``y_d`` may have different numbers of strengths.
    """
    low = np.maximum(x_m.min(1), x_d.min(1))[:, None]
    high = np.minimum(x_m.max(1), x_d.max(1))[:, None]
    knots = np.sort(np.clip(np.concatenate([x_m, x_d], 1), low, np.maximum(low, high)), 1)
    width, middle = np.diff(knots, axis=1), (knots[:, 1:] + knots[:, :-1]) / 2.0
    difference = np.where(width > 0.0, first_reach(x_m, y_m, middle) - first_reach(x_d, y_d, middle), 0.0)
    whole = width.sum(1)
    return np.asarray(np.where(whole > 0.0, (difference * width).sum(1) / np.where(whole > 0.0, whole, 1.0), NAN))


def first_reach(x: Points, y: Points, at: Float[np.ndarray, "draw level"]) -> Float[np.ndarray, "draw level"]:
    """Return y where the curve through the points first reaches x = ``at``; meaningless where it never does."""
    below = x[:, None, :] - at[:, :, None]
    segment: Int[np.ndarray, "draw level"] = (below[:, :, :-1] * below[:, :, 1:] <= 0.0).argmax(2)
    x0, x1 = np.take_along_axis(x, segment, 1), np.take_along_axis(x, segment + 1, 1)
    y0, y1 = np.take_along_axis(y, segment, 1), np.take_along_axis(y, segment + 1, 1)
    share = np.divide(at - x0, x1 - x0, out=np.zeros_like(at), where=x1 != x0)
    return np.asarray(y0 + share * (y1 - y0))


def _check(method: Curve, other: Curve) -> None:
    seeds = {sweep.sums.shape[1] for curve in (method, other) for sweep in (curve.x, curve.y)}
    if len(seeds) > 1:
        raise UserError(f"a frontier gain needs the same seeds in all sweeps; they have {sorted(seeds)} of them")
    if any(len(sweep.sums) < 2 for curve in (method, other) for sweep in (curve.x, curve.y)):
        raise UserError("a curve needs at least two strengths")
    for a, b in ((method.x, other.x), (method.y, other.y)):
        if not np.array_equal(a.counts, b.counts):
            raise UserError("a frontier gain needs both methods on the same prompts of both sets")
