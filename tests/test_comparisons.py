"""Two methods on the same prompts and seeds: differences, tests of none, corrections, and what could be found."""

import math

import numpy as np
import pytest
from scipy import stats

from innerpo.errors import UserError
from innerpo.evaluation.statistics import (
    DIFFERENCE,
    Clustered,
    compare,
    differences,
    holm,
    mcnemar,
    minimum_detectable_difference,
    one_run,
    p_value,
    sign_flip,
)
from innerpo.evaluation.statistics.records import Estimate

NAN = float("nan")


def data(*seeds, counts=None):
    """Sums of prompts, a list for each seed."""
    sums = np.array(seeds, float)
    return Clustered(sums, np.ones(sums.shape[1]) if counts is None else np.array(counts, float))


def test_differences_by_hand():
    """Four prompts: +1, +1, 0, -1. The plain paired t test of scipy, as prompts have one pair each."""
    first, second = data([1, 1, 1, 0]), data([0, 0, 1, 1])
    assert differences(first, second).sums.tolist() == [[1.0, 1.0, 0.0, -1.0]]
    found = compare(first, second)
    expected = stats.ttest_rel([1, 1, 1, 0], [0, 0, 1, 1])
    assert found.difference.mean == 0.25
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.difference.low, found.difference.high) == (
        pytest.approx(max(-1.0, expected.confidence_interval().low)),
        pytest.approx(min(1.0, expected.confidence_interval().high)),
    )


def test_seeds_alone_differ_then_it_is_the_t_test_over_seeds():
    """Every prompt of a seed has the same difference: the paired t test of three seed means."""
    rows = [[d] * 10 for d in (0.5, 0.2, 0.5)]
    found = compare(data(*rows), data(*[[0.0] * 10] * 3))
    expected = stats.ttest_1samp([0.5, 0.2, 0.5], 0.0)
    assert (found.difference.df, found.p) == (2.0, pytest.approx(expected.pvalue))


def test_p_is_below_5_percent_exactly_where_the_interval_leaves_out_0():
    rng = np.random.default_rng(0)
    for _ in range(50):
        found = compare(data(*rng.normal(0.2, 0.4, (3, 20))), data(*np.zeros((3, 20))))
        assert (found.p < 0.05) == (not found.difference.low <= 0.0 <= found.difference.high)


def test_a_pairing_that_does_not_match_is_an_error():
    with pytest.raises(UserError, match="same seeds, prompts and pairs; they have 1 x 2 and 1 x 3 of 2 and 3 pairs"):
        compare(data([1, 0]), data([1, 0, 1]))
    with pytest.raises(UserError, match="of 2 and 3 pairs"):
        compare(data([1, 0]), data([1, 0], counts=[1, 2]))
    with pytest.raises(UserError, match="a suite is compared with a suite"):
        compare([data([1, 0])], data([1, 0]))


def test_suites_are_compared_shift_by_shift():
    first = [data([1, 1, 0, 1], [1, 1, 1, 1]), data([1, 0, 1, 1], [1, 1, 1, 0])]
    second = [data([0, 1, 0, 0], [0, 1, 1, 0]), data([0, 0, 1, 1], [1, 0, 0, 0])]
    found = compare(first, second)
    assert found.difference.level == "shifts x seeds x prompts"
    assert found.difference.mean == pytest.approx((4 / 8 + 3 / 8) / 2)


def test_equal_outcomes_are_not_a_difference_known_to_be_0():
    """250 prompts without any difference: the interval is about -+3/250, p is 1."""
    same = data([1.0] * 250)
    found = compare(same, same)
    assert (found.difference.mean, found.p) == (0.0, 1.0)
    assert found.difference.high == pytest.approx(0.0112, abs=1e-4)
    assert found.detectable > 0.0


def test_nan_in_nan_out():
    found = compare(data([1, NAN, 1]), data([1, 0, 1]))
    assert math.isnan(found.p)
    assert math.isnan(found.detectable)
    assert math.isnan(mcnemar(data([1, NAN]), data([1, 0])).p)
    assert math.isnan(sign_flip(data([1, NAN])))


# -- McNemar, sign flips, Holm -----------------------------------------------------------------------------------------


def test_mcnemar_by_hand():
    """Six pairs that only the first got right and one that only the second did: 2 (1 + 7) / 2^7."""
    first, second = data([1] * 6 + [0] + [1, 0, 0]), data([0] * 6 + [1] + [1, 0, 0])
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second, found.p) == (6, 1, pytest.approx(16 / 128))
    many = mcnemar(data([1] * 40 + [0] * 20), data([0] * 40 + [1] * 20))
    assert many.p == pytest.approx(stats.chi2.sf((40 - 20 - 1) ** 2 / 60, 1))


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (data([1, 2], counts=[1, 2]), "one run and one pair a prompt"),
        (data([1, 0], [1, 0]), "one run and one pair a prompt"),
        (data([1, 0, 1]), "not on 3 and 2"),
        (data([1, 0.5]), "outcomes of 0 or 1 and 1 are not"),
    ],
)
def test_where_mcnemar_does_not_apply(first, message):
    with pytest.raises(UserError, match=message):
        mcnemar(first, data([1, 0]))


def test_sign_flips_by_hand():
    """Differences 3, 1, 1 and 0: of 8 sums of +-3 +-1 +-1, only +5 and -5 are as large as 5."""
    assert sign_flip(data([3, 1, 1, 0])) == 2 / 8
    assert sign_flip(data([3, -1, -1, 0])) == 1.0  # 1 is the smallest sum there is
    assert sign_flip(data([1, 1], [2, -1])) == 2 / 2**1  # over seeds: 3 and 0
    assert sign_flip(data([0, 0, 0])) == 1.0


def test_many_sign_flips_are_drawn_by_a_seed_and_near_the_t_test():
    rng = np.random.default_rng(0)
    values = data(rng.normal(0.1, 0.5, 100))
    assert sign_flip(values) == sign_flip(values)
    assert sign_flip(values) == pytest.approx(p_value(one_run(values, DIFFERENCE)), abs=0.01)


def test_holm_by_hand():
    """.01 x 3, .02 x 2, .9 x 1 of those that are known; never below the one before."""
    assert holm([0.9, NAN, 0.01, 0.02])[2:] == pytest.approx([0.03, 0.04])
    assert holm([0.9, 0.01, 0.02])[0] == pytest.approx(0.9)
    assert holm([0.02, 0.019]) == pytest.approx([0.038, 0.038])
    assert math.isnan(holm([NAN])[0])


# -- power -------------------------------------------------------------------------------------------------------------


def test_the_detectable_difference_of_many_prompts_is_that_of_the_normal():
    found = Estimate(0.0, -0.1, 0.1, 10**6, 10**6, se=0.01, df=1e6)
    assert minimum_detectable_difference(found) == pytest.approx(0.01 * (1.95996 + 0.84162), abs=1e-5)


def test_the_detectable_difference_of_three_seeds_is_that_of_the_noncentral_t():
    found = Estimate(0.0, -0.1, 0.1, 9, 9, se=0.01, df=2.0)
    delta = minimum_detectable_difference(found)
    true_se = 0.01 / (math.sqrt(math.pi) / 2)  # E[s] / sigma for two degrees of freedom
    assert stats.nct.sf(stats.t.ppf(0.975, 2), 2, delta / true_se) == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(minimum_detectable_difference(Estimate(0.0, NAN, NAN, 1, 1)))
