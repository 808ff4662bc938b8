"""Means and their 95 % intervals by hand: prompts, seeds and shifts are what varies, not pairs."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from innerpo.errors import UserError
from innerpo.evaluation.statistics import (
    UNKNOWN,
    Clustered,
    clustered,
    clustered_bootstrap,
    hierarchical_bootstrap,
    one_run,
    over_shifts,
    proportion,
    seeds_by_prompts,
    suite,
)
from innerpo.evaluation.statistics.components import Part, crossed, effective_df, linearised, mean_squares, weighted_t
from innerpo.evaluation.statistics.intervals import wilson
from innerpo.registry import STATISTICS, resolve

NAN = float("nan")
REAL = (-math.inf, math.inf)


def of(*prompts):
    """The estimate of pairs written prompt by prompt: "110" is a prompt with three pairs, two of them right."""
    values = [float(pair) for prompt in prompts for pair in prompt]
    names = [str(i) for i, prompt in enumerate(prompts) for _ in prompt]
    return proportion(np.array(values), names)


def data(*seeds):
    """Outcomes of prompts of one pair each, a string of digits for each seed."""
    sums = np.array([[float(digit) for digit in seed] for seed in seeds])
    return Clustered(sums, np.ones(sums.shape[1]))


# -- one run -----------------------------------------------------------------------------------------------------------


def test_the_table_of_statistics():
    assert resolve(STATISTICS, "proportion", "statistic") is proportion


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0, NAN], ["a", "b"])])
def test_unknown_is_nan_and_never_zero(values, clusters):
    found = proportion(np.array(values), clusters)
    assert found is UNKNOWN
    assert all(math.isnan(v) for v in (found.mean, found.low, found.high, found.se, found.df))


@pytest.mark.parametrize("statistic", [one_run, seeds_by_prompts, clustered_bootstrap, hierarchical_bootstrap])
def test_nan_in_nan_out(statistic):
    found = statistic(Clustered(np.array([[1.0, NAN, 0.0], [1.0, 1.0, 0.0]]), np.ones(3)))
    assert all(math.isnan(v) for v in (found.mean, found.low, found.high, found.se))
    assert (found.n, found.clusters, found.seeds) == (3, 3, 2)
    assert math.isnan(suite([data("10", "11"), Clustered(np.array([[NAN, 1.0], [1.0, 1.0]]), np.ones(2))]).mean)


def test_a_single_cluster_has_a_mean_and_no_interval():
    found = of("1011")
    assert (found.mean, found.n, found.clusters) == (0.75, 4, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_pairs_are_summed_by_prompt():
    found = clustered(np.array([[1.0, 0.0, 1.0], [0.5, 0.0, 0.0]]), ["b", "a", "b"])
    assert found.sums.tolist() == [[0.0, 2.0], [0.0, 0.5]]
    assert found.counts.tolist() == [1.0, 2.0]
    with pytest.raises(UserError, match="3 pairs and the prompts of 2"):
        clustered(np.ones((1, 3)), ["a", "b"])
    with pytest.raises(UserError, match="a prompt has no pairs"):
        Clustered(np.ones((1, 2)), np.array([1.0, 0.0]))
    with pytest.raises(UserError, match=r"sums of shape \(0, 2\) and 2 counts"):
        Clustered(np.ones((0, 2)), np.ones(2))


def test_wilson_with_z_and_n_is_that_of_statsmodels():
    from statsmodels.stats.proportion import proportion_confint

    for right, n in ((0, 10), (3, 10), (10, 10), (49, 50)):
        expected = proportion_confint(right, n, method="wilson")
        assert wilson(right / n, stats.norm.ppf(0.975) ** 2 / n) == pytest.approx(expected, abs=1e-12)
    assert wilson(0.0, 0.1)[0] == 0.0
    assert wilson(1.0, 0.1)[1] == 1.0


def test_an_interval_by_hand():
    """Four prompts of one pair, two right: u = +-1/2, and a quarter of a prompt at 0 and at 1, 1/2 from the mean."""
    found = of("1", "1", "0", "0")
    square = (4 * 0.25 + 0.25 * (0.25 + 0.25)) / 3  # 0.375
    assert found.se == pytest.approx(math.sqrt(square / 4))
    ratio = stats.t.ppf(0.975, 3) ** 2 * found.se**2 / 0.25
    half = math.sqrt(ratio * 0.25 + ratio**2 / 4) / (1 + ratio)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert (found.mean, found.df, found.level) == (0.5, 3.0, "prompts")


def test_unequal_prompts_by_hand():
    """Three of 4 pairs right, in prompts of 3 and 1: u = 2 (y - .75 n) / 4, the same but for its sign."""
    values = linearised(Clustered(np.array([[3.0, 0.0]]), np.array([3.0, 1.0])))
    np.testing.assert_allclose(values, [[0.375, -0.375]])
    centre = (0.75 + 0.125) / 1.25  # with the added quarters of 2 prompts
    square = (2 * 0.375**2 + 0.25 * ((1 - centre) ** 2 + centre**2)) / 1
    assert of("111", "0").se == pytest.approx(math.sqrt(square / 2))


def test_copies_of_a_cluster_are_no_news():
    """Ten copies of each pair under the same prompt: the interval of the pairs, not the narrower one of ten times n."""
    prompts = ["1", "0", "1", "1", "0", "0", "1", "1"]
    once, copied = of(*prompts), of(*(10 * p for p in prompts))
    naive = of(*(p for p in prompts for _ in range(10)))
    assert (copied.mean, copied.low, copied.high) == pytest.approx((once.mean, once.low, once.high))
    assert (copied.n, copied.clusters) == (80, 8)
    assert copied.high - copied.low > 2.0 * (naive.high - naive.low)


@pytest.mark.parametrize("n", [2, 5, 20, 60])
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


def test_standard_errors_are_those_of_statsmodels():
    """OLS on a constant with cov_type="cluster" (one way), to 1e-8; without the added prompts."""
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(40), rng.integers(1, 7, 40))
    values = (rng.standard_normal(40)[names] + rng.standard_normal(len(names)) > 0.3).astype(float)
    fit = smf.ols("y ~ 1", pd.DataFrame({"y": values})).fit(cov_type="cluster", cov_kwds={"groups": names})
    found = one_run(clustered(values[None], names.astype(str).tolist()), bounds=REAL)
    assert found.mean == pytest.approx(fit.params["Intercept"], abs=1e-12)
    assert found.se == pytest.approx(fit.bse["Intercept"], abs=1e-8)


def test_parts_of_seeds_and_prompts_are_those_of_statsmodels_one_way_each():
    """MS_seed / SG and MS_prompt / SG are the cluster-robust variances by seed and by prompt (Cameron et al. 2011)."""
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 7, 30).astype(float)
    sums = np.array([rng.binomial(counts.astype(int), 0.7) for _ in range(4)]).astype(float)
    pairs = [(s, g, k < sums[s, g]) for s in range(4) for g in range(30) for k in range(int(counts[g]))]
    frame = pd.DataFrame(pairs, columns=["seed", "prompt", "y"]).astype(float)
    squares = mean_squares(linearised(Clustered(sums, counts)))
    for name, square in (("seed", squares.rows), ("prompt", squares.columns)):
        fit = smf.ols("y ~ 1", frame).fit(cov_type="cluster", cov_kwds={"groups": frame[name]})
        assert math.sqrt(square / 120) == pytest.approx(fit.bse["Intercept"], abs=1e-8)


# -- seeds x prompts ---------------------------------------------------------------------------------------------------


def test_mean_squares_by_hand():
    """Rows 2 and 4, columns 2, 3 and 4, mean 3; what is left is -+1 in the first and the last column."""
    squares = mean_squares(np.array([[2.0, 2.0, 2.0], [2.0, 4.0, 6.0]]))
    assert (squares.rows, squares.columns, squares.left) == (3 * 2 / 1, 2 * 2 / 2, 4 / 2)


def test_the_cells_effect_stays_with_the_fewer():
    rows, columns = crossed(mean_squares(np.array([[2.0, 2.0, 2.0], [2.0, 4.0, 6.0]])), 2, 3)
    assert (rows, columns) == (Part(1.0, 1.0), Part(0.0, 2.0))  # 6 / 6, and (2 - 2) / 6
    columns, rows = crossed(mean_squares(np.array([[2.0, 2.0], [2.0, 4.0], [2.0, 6.0]])), 3, 2)
    assert (rows.variance, columns.variance) == (1.0, 0.0)


def test_a_weighted_t_lies_between_those_of_its_parts():
    few, many = Part(1.0, 2.0), Part(3.0, 100.0)
    aim = (stats.t.ppf(0.975, 2) + 3 * stats.t.ppf(0.975, 100)) / 4
    assert weighted_t([few, many]) == pytest.approx(aim)
    assert stats.t.ppf(0.975, effective_df([few, many])) == pytest.approx(aim)
    assert effective_df([few, Part(0.0, 100.0)]) == 2.0
    assert effective_df([Part(0.0, 2.0), many]) == 100.0


def test_seeds_that_differ_widen_the_interval():
    """Same mean: seeds that agree on every prompt, and seeds that are all right or all wrong."""
    agree = seeds_by_prompts(data("11110000", "11110000", "11110000", "11110000"))
    differ = seeds_by_prompts(data("11111111", "11111111", "00000000", "00000000"))
    assert agree.mean == differ.mean == 0.5
    assert (agree.level, agree.seeds, agree.clusters, agree.n) == ("seeds x prompts", 4, 8, 8)
    assert agree.df == 7.0  # nothing varies between seeds: as eight prompts of one run
    assert (agree.low, agree.high) == pytest.approx((of(*"11110000").low, of(*"11110000").high))
    assert differ.df < 4.0
    assert differ.high - differ.low > 1.2 * (agree.high - agree.low)


def test_one_seed_says_that_seeds_are_not_covered():
    found = seeds_by_prompts(data("110100"))
    assert (found.level, found.seeds) == ("prompts", 1)
    assert found == one_run(data("110100"))


def test_one_run_of_several_seeds_is_the_interval_of_their_mean():
    found = one_run(data("11111111", "00000000"))
    assert (found.mean, found.level, found.seeds) == (0.5, "prompts", 2)
    assert found.high - found.low < 0.4  # no prompt differs from another: only the added quarters


# -- suites ------------------------------------------------------------------------------------------------------------


def test_a_suite_counts_its_shifts_alike():
    """A shift of 2 prompts, all right, and one of 6, all wrong: 1/2."""
    found = suite([data("11", "11"), data("000000", "000000")])
    assert (found.mean, found.n, found.clusters, found.seeds, found.shifts) == (0.5, 8, 8, 2, 2)
    assert found.level == "shifts x seeds x prompts"
    assert suite([data("11"), data("000000")]).level == "shifts x prompts"
    assert suite([data("1100", "1000")]) == seeds_by_prompts(data("1100", "1000"))


def test_a_suite_of_equal_shifts_still_varies_by_its_prompts():
    """All shifts at 1/2 under both seeds: no difference between shifts, but prompts were drawn."""
    found = suite([data("1100" * 5, "1100" * 5)] * 4)
    alone = of(*"1100" * 5)
    assert found.se == pytest.approx(alone.se / 2)  # four shifts of such prompts: a quarter of the variance
    assert found.low < 0.45


def test_errors_of_suites():
    with pytest.raises(UserError, match=r"need the same seeds; they have \[1, 2\]"):
        suite([data("10"), data("10", "11")])
    with pytest.raises(UserError, match="without shifts"):
        suite([])


def test_figures_over_shifts_by_hand():
    """One seed: the plain t interval of the shifts, without bounds."""
    found = over_shifts(np.array([[1.0], [2.0], [6.0]]))
    half = stats.t.ppf(0.975, 2) * math.sqrt(7 / 3)
    assert (found.mean, found.low, found.high) == pytest.approx((3.0, 3.0 - half, 3.0 + half))
    two = over_shifts(np.array([[1.0, 1.0], [2.0, 2.0], [6.0, 6.0]]))
    assert two.se == pytest.approx(found.se)
    assert math.isnan(over_shifts(np.array([[1.0], [NAN]])).mean)
    assert math.isnan(over_shifts(np.array([[1.0, 2.0]])).low)


# -- bootstraps --------------------------------------------------------------------------------------------------------


def test_bootstraps_are_seeded_and_near_the_t_intervals():
    values = data("1101" * 50, "1001" * 50)
    first, again = hierarchical_bootstrap(values), hierarchical_bootstrap(values)
    assert first == again
    assert first.level == "seeds x prompts"
    prompts = clustered_bootstrap(values)
    assert (prompts.low, prompts.high) == pytest.approx((one_run(values).low, one_run(values).high), abs=0.01)
    assert prompts.high - prompts.low < first.high - first.low < seeds_by_prompts(values).high
    two = hierarchical_bootstrap([data("11", "11"), data("00", "00")])
    assert (two.low, two.high, two.level) == (0.0, 1.0, "shifts x seeds x prompts")
