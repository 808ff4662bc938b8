"""Means over pairs and their 95 % intervals: prompts, not pairs, are what varies."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from innerpo.evaluation.statistics import UNKNOWN, proportion
from innerpo.registry import STATISTICS, resolve

NAN = float("nan")


def of(*prompts):
    """The estimate of pairs written prompt by prompt: "110" is a prompt with three pairs, two of them right."""
    values = [float(pair) for prompt in prompts for pair in prompt]
    names = [str(i) for i, prompt in enumerate(prompts) for _ in prompt]
    return proportion(np.array(values), names)


def test_the_table_of_statistics():
    assert resolve(STATISTICS, "proportion", "statistic") is proportion


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0, NAN], ["a", "b"])])
def test_unknown_is_nan_and_never_zero(values, clusters):
    found = proportion(np.array(values), clusters)
    assert found is UNKNOWN
    assert all(math.isnan(v) for v in (found.mean, found.low, found.high))


def test_a_single_cluster_has_a_mean_and_no_interval():
    found = of("1011")
    assert (found.mean, found.n, found.clusters) == (0.75, 4, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_an_interval_by_hand():
    """Two prompts, "11" and "00", and two of each added: six of two pairs, mean 1/2, every residual +-1."""
    found = of("11", "00")
    half = stats.t.ppf(0.975, 5) * math.sqrt(6 / 5 * 6) / 12  # 0.575, more than the distance to 0 and 1
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    assert half > 0.5
    twenty = of(*["11", "00"] * 10)
    half = stats.t.ppf(0.975, 23) * math.sqrt(24 / 23 * 24) / 48
    assert (twenty.low, twenty.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_unequal_prompts_by_hand():
    """Pairs 3 right of 4 in prompts of 3 and 1; the mean size is 2, so 4 successes and 4 failures are added."""
    found = of("111", "0")
    centre = (3 + 4) / (4 + 8)
    residuals = [3 - 3 * centre, -centre, *[2 - 2 * centre] * 2, *[-2 * centre] * 2]
    half = stats.t.ppf(0.975, 5) * math.sqrt(6 / 5 * sum(r**2 for r in residuals)) / 12
    assert found.mean == 0.75
    assert (found.low, found.high) == pytest.approx((centre - half, min(1.0, centre + half)))


def test_copies_of_a_cluster_are_no_news():
    """Ten copies of each pair under the same prompt: the interval of the pairs, not the narrower one of ten times n."""
    prompts = ["1", "0", "1", "1", "0", "0", "1", "1"]
    once, copied = of(*prompts), of(*(10 * p for p in prompts))
    naive = of(*(p for p in prompts for _ in range(10)))
    assert (copied.mean, copied.low, copied.high) == pytest.approx((once.mean, once.low, once.high))
    assert (copied.n, copied.clusters) == (80, 8)
    assert copied.high - copied.low > 2.0 * (naive.high - naive.low)


@pytest.mark.parametrize("n", [2, 5, 20, 250])
def test_each_success_more_raises_both_ends(n):
    """From none right to all right: no jump where resampling would see no variance, and never a point."""
    found = [of(*["1"] * k, *["0"] * (n - k)) for k in range(n + 1)]
    for fewer, more in pairwise(found):
        assert fewer.low <= more.low
        assert fewer.high <= more.high
        assert (fewer.low, fewer.high) < (more.low, more.high)
    assert found[-1].low > found[-2].low  # 20 of 20 above 19 of 20
    assert (found[0].low, found[-1].high) == (0.0, 1.0)
    assert all(e.low <= e.mean <= e.high for e in found)
    assert all(e.high - e.low > 1.0 / n for e in found)
    mirrored = [(1.0 - e.high, 1.0 - e.low) for e in reversed(found)]
    assert np.allclose(mirrored, [(e.low, e.high) for e in found])


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.97, 1.0])
@pytest.mark.parametrize("prompts", [20, 60, 250])
@pytest.mark.parametrize("agreeing", [False, True])
def test_intervals_cover_the_truth_about_as_often_as_they_say(truth, prompts, agreeing):
    """Prompts of 1 to 3 pairs, which are independent or all alike."""
    rng = np.random.default_rng(0)
    covered, runs = 0, 300
    for _ in range(runs):
        sizes = rng.integers(1, 4, prompts)
        index = np.repeat(np.arange(prompts), sizes)
        drawn = rng.random(prompts)[index] if agreeing else rng.random(len(index))
        found = proportion((drawn < truth).astype(float), index.astype(str).tolist())
        covered += found.low <= truth <= found.high
    # 300 draws at 95 % have a standard error of 1.3 points.
    assert covered / runs >= 0.925
    assert covered / runs <= (1.0 if truth > 0.9 else 0.995)
