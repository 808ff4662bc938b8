"""The frontier gain by hand, on curves of a few points, and its interval."""

import math

import numpy as np
import pytest

from innerpo.errors import UserError
from innerpo.evaluation.statistics import Curve, Sweep, frontier_gain, seed_gains
from innerpo.evaluation.statistics.frontier import first_reach, gain_of_curves
from tools.coverage.comparisons import OTHER_STRENGTHS, STRENGTHS
from tools.coverage.simulate import Paths

NAN = float("nan")


def gain(first, second):
    """The gain of two curves, each a list of (x, y)."""
    points = [np.array([[p[i] for p in curve]], float) for curve in (first, second) for i in (0, 1)]
    return float(gain_of_curves(*points)[0])


def sweep(*strengths):
    """Sums of four prompts of ten pairs each, at each strength, for one seed."""
    return Sweep(np.array([[[10.0 * mean] * 4] for mean in strengths]), np.full(4, 10.0))


# -- the gain ----------------------------------------------------------------------------------------------------------


def test_a_constant_gain():
    assert gain([(0, 0.5), (1, 0.5)], [(0, 0.2), (1, 0.2)]) == pytest.approx(0.3)


def test_only_the_common_range_counts():
    """.2 to .6 is reached by both. There the first is at .9, the second at 1 - x: mean of .9 - 1 + x over it is .3."""
    assert gain([(0, 0.9), (0.6, 0.9)], [(0.2, 0.8), (1, 0)]) == pytest.approx(0.3)


def test_the_integral_is_exact_between_points():
    """y = x against (0, 0), (.5, 1), (1, 0): the means over [0, 1] are both 1/2; over [0, .75] 3/8 and 7/12."""
    bent = [(0, 0), (0.5, 1), (1, 0)]
    assert gain([(0, 0), (1, 1)], bent) == pytest.approx(0.0)
    assert gain([(0, 0), (0.75, 0.75)], bent) == pytest.approx(3 / 8 - 7 / 12)


def test_a_method_against_itself_at_other_strengths():
    straight = [(0.5, 0.7), (0.6, 0.68), (0.7, 0.66), (0.9, 0.62)]
    others = [(0.55, 0.69), (0.85, 0.63)]
    assert gain(straight, others) == pytest.approx(0.0)
    assert gain(straight, straight) == 0.0


def test_a_curve_that_turns_back_counts_where_it_first_reaches_x():
    """Accuracy rises to .8, then falls to .6 with a worse y: the way back changes nothing, nor does its length."""
    out = [(0.5, 0.7), (0.8, 0.4)]
    back, far_back = [*out, (0.6, 0.1)], [*out, (0.3, 0.0)]
    other = [(0.5, 0.6), (0.8, 0.6)]
    assert gain(out, other) == pytest.approx(0.55 - 0.6)
    assert gain(back, other) == pytest.approx(0.55 - 0.6)
    assert gain(back, out) == gain(back, [*out, (0.7, 0.2)]) == 0.0
    assert gain(far_back, other) == pytest.approx(gain(out, other))


def test_first_reach_by_hand():
    x, y = np.array([[0.0, 1.0, 0.0, 2.0]]), np.array([[0.0, 10.0, 20.0, 40.0]])
    np.testing.assert_allclose(first_reach(x, y, np.array([[0.5, 1.0, 1.5]])), [[5.0, 10.0, 35.0]])


@pytest.mark.parametrize("second", [[(0.7, 1), (0.9, 1)], [(0.5, 1), (0.7, 1)], [(0.2, 1), (0.2, 0)]])
def test_no_common_range_is_unknown(second):
    assert math.isnan(gain([(0.1, 1), (0.5, 1)], second))


def test_draws_are_independent_of_each_other():
    """Several rows at once give what each gives alone."""
    rng = np.random.default_rng(0)
    rows = [rng.random((20, 5)), rng.random((20, 5)), rng.random((20, 4)), rng.random((20, 4))]
    together = gain_of_curves(*rows)
    alone = [float(gain_of_curves(*(r[i : i + 1] for r in rows))[0]) for i in range(20)]
    np.testing.assert_array_equal(together, alone)


def test_the_integral_against_a_fine_grid():
    rng = np.random.default_rng(1)
    for _ in range(20):
        x_m, x_d = np.sort(rng.random(5)), np.sort(rng.random(4))
        y_m, y_d = rng.random(5), rng.random(4)
        low, high = max(x_m[0], x_d[0]), min(x_m[-1], x_d[-1])
        grid = low + (np.arange(20_000) + 0.5) / 20_000 * (high - low)
        expected = (np.interp(grid, x_m, y_m) - np.interp(grid, x_d, y_d)).mean()
        if high <= low:
            continue
        found = gain_of_curves(*(v[None] for v in (x_m, y_m, x_d, y_d)))
        assert found[0] == pytest.approx(expected, abs=1e-5)


# -- its interval ------------------------------------------------------------------------------------------------------


def test_without_noise_the_interval_is_the_gain():
    method = Curve(sweep(0.5, 0.6, 0.8), sweep(0.7, 0.65, 0.6))
    other = Curve(sweep(0.5, 0.7, 0.8), sweep(0.7, 0.5, 0.4))
    found = frontier_gain(method, other)
    expected = gain([(0.5, 0.7), (0.6, 0.65), (0.8, 0.6)], [(0.5, 0.7), (0.7, 0.5), (0.8, 0.4)])
    assert (found.mean, found.low, found.high) == pytest.approx((expected, expected, expected))
    assert (found.level, found.seeds, found.clusters, found.n) == ("prompts", 1, 4, 40)


def test_a_drift_on_the_x_axis_is_divided_by_its_own_counts():
    """Sums of |log-ratio| over 5 tokens a prompt: drifts 0, 1 and 2 nats per token."""
    drift = Sweep(np.array([[[0.0] * 4], [[5.0] * 4], [[10.0] * 4]]), np.full(4, 5.0))
    found = frontier_gain(Curve(drift, sweep(0.5, 0.6, 0.7)), Curve(drift, sweep(0.5, 0.5, 0.5)))
    assert found.mean == pytest.approx(0.1)


def noisy(seeds=3, prompts=60, seed=0):
    paths = Paths(np.random.default_rng(seed), seeds, prompts)
    return paths.curve(paths.trained(), STRENGTHS), paths.curve(paths.trained(), OTHER_STRENGTHS)


def test_the_interval_is_seeded_and_says_what_it_covers():
    first, second = noisy()
    found = frontier_gain(first, second, draws=200)
    assert found == frontier_gain(first, second, draws=200)
    assert found != frontier_gain(first, second, draws=200, seed=1)
    assert (found.level, found.seeds) == ("seeds x prompts", 3)
    assert 2.0 <= found.df < 59.0
    assert found.low < found.mean < found.high


def test_each_seed_has_a_gain_of_its_own():
    """As if each were the only one."""
    first, second = noisy()
    for i, found in enumerate(seed_gains(first, second)):
        own = [Curve(*(Sweep(s.sums[:, [i]], s.counts) for s in (c.x, c.y))) for c in (first, second)]
        assert found == pytest.approx(frontier_gain(*own).mean, abs=1e-12)


def test_exchanging_the_methods_changes_the_sign():
    first, second = noisy()
    there, back = frontier_gain(first, second, draws=200), frontier_gain(second, first, draws=200)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))


def test_nan_in_nan_out():
    method = Curve(sweep(0.5, NAN, 0.8), sweep(0.7, 0.65, 0.6))
    found = frontier_gain(method, Curve(sweep(0.5, 0.7), sweep(0.7, 0.5)))
    assert math.isnan(found.mean)
    assert math.isnan(found.low)
    apart = frontier_gain(Curve(sweep(0.5, 0.6), sweep(0.5, 0.5)), Curve(sweep(0.7, 0.8), sweep(0.5, 0.5)))
    assert math.isnan(apart.mean)


def test_methods_that_do_not_match_are_an_error():
    one, three = noisy(seeds=1)[0], noisy()[0]
    with pytest.raises(UserError, match=r"same seeds in all sweeps; they have \[1, 3\]"):
        frontier_gain(one, three)
    with pytest.raises(UserError, match="same prompts"):
        frontier_gain(one, noisy(seeds=1, seed=1)[0])
    with pytest.raises(UserError, match="at least two strengths"):
        frontier_gain(Curve(sweep(0.5), sweep(0.5)), Curve(sweep(0.5), sweep(0.5)))
