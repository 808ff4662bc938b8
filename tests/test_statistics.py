"""Means over pairs and their 95 % intervals: prompts, not pairs, are what varies."""

import math

import numpy as np
import pytest

from innerpo.evaluation.statistics import UNKNOWN, cluster_mean
from innerpo.registry import STATISTICS, resolve

NAN = float("nan")


def test_the_headline_uses_the_bootstrap_over_prompts():
    assert resolve(STATISTICS, "bootstrap", "statistic") is cluster_mean


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0, NAN], ["a", "b"])])
def test_unknown_is_nan_and_never_zero(values, clusters):
    found = cluster_mean(np.array(values), clusters)
    assert found is UNKNOWN
    assert all(math.isnan(v) for v in (found.mean, found.low, found.high))


def test_a_single_cluster_has_a_mean_and_no_interval():
    found = cluster_mean(np.array([1.0, 0.0, 1.0, 1.0]), list("aaaa"))
    assert (found.mean, found.n, found.clusters) == (0.75, 4, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_copies_of_a_cluster_are_no_news():
    """Ten copies of each pair under the same prompt: the interval of the pairs, not the narrower one of ten times n."""
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0])
    names = [f"prompt {i}" for i in range(len(values))]
    once = cluster_mean(values, names)
    copied = cluster_mean(np.repeat(values, 10), np.repeat(names, 10).tolist())
    naive = cluster_mean(np.repeat(values, 10), [str(i) for i in range(80)])
    assert (copied.mean, copied.low, copied.high) == pytest.approx((once.mean, once.low, once.high), abs=1e-12)
    assert (copied.n, copied.clusters) == (80, 8)
    # The standard error falls by sqrt(10) = 3.2 if copies count as news.
    assert copied.high - copied.low > 2.5 * (naive.high - naive.low)


def test_clusters_of_unequal_size_weigh_by_their_pairs():
    found = cluster_mean(np.array([1.0, 1.0, 1.0, 0.0]), ["a", "a", "a", "b"])
    assert found.mean == 0.75
    assert (found.low, found.high) == (0.0, 1.0)  # a resample may hold b twice or a twice


def test_all_won_or_all_lost_is_not_certainty():
    """Resampling eight successes gives only successes; the exact interval of 8 out of 8 begins at .025 ** (1 / 8)."""
    names = [f"prompt {i // 3}" for i in range(24)]
    won, lost = cluster_mean(np.ones(24), names), cluster_mean(np.zeros(24), names)
    assert (won.mean, won.high, lost.mean, lost.low) == (1.0, 1.0, 0.0, 0.0)
    assert won.low == pytest.approx(0.025 ** (1 / 8), abs=1e-6)
    assert lost.high == pytest.approx(1 - 0.025 ** (1 / 8), abs=1e-6)


def test_the_interval_depends_on_the_seed_alone():
    values, names = np.array([1.0, 0.0, 1.0, 1.0, 0.0]), list("abcde")
    assert cluster_mean(values, names, seed=3) == cluster_mean(values, names, seed=3)
    wide = [cluster_mean(np.arange(20) / 19, list("abcdefghijklmnopqrst"), seed=s) for s in (0, 1)]
    assert wide[0].low != wide[1].low


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = naive_covered = 0
    for _ in range(200):
        # 40 prompts of four pairs; a prompt's own accuracy is .2 or .9 with equal chance, so the truth is .55
        own = rng.choice([0.2, 0.9], size=40)
        values = (rng.random((40, 4)) < own[:, None]).astype(float).ravel()
        found = cluster_mean(values, np.repeat(np.arange(40), 4).astype(str).tolist(), resamples=400)
        naive = cluster_mean(values, np.arange(160).astype(str).tolist(), resamples=400)
        covered += found.low <= 0.55 <= found.high
        naive_covered += naive.low <= 0.55 <= naive.high
    assert 0.90 <= covered / 200 <= 0.99
    assert naive_covered / 200 < 0.90  # intervals over pairs are too narrow here
