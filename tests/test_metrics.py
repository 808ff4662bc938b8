"""Metrics and scorers by hand, and GENIES's figures from its published results."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from innerpo.evaluation.joined import joined_pairs
from innerpo.evaluation.metrics.calibration import calibration_table, reliability
from innerpo.evaluation.metrics.elicitation import capabilities
from innerpo.evaluation.metrics.genies_compat import differential_elicitation, genies_metrics
from innerpo.evaluation.metrics.metric import VALUES, measure
from innerpo.evaluation.outcomes import pair_outcomes
from innerpo.evaluation.study import read_study
from innerpo.registry import METRICS, resolve
from study_helpers import NAN, config_of, right, run_of, same, scores_of, write_run

PUBLISHED = json.loads((Path(__file__).parent / "data" / "genies_published.json").read_text())


@pytest.fixture
def study(tmp_path):
    """Prompt a has three responses, b two; the policy's log-probabilities differ from the base's."""
    models = {
        ("base", 0.0): {"test": {"a": [-1, -2, -3], "b": [-4, -2]}},
        ("dpo", 1.0): {"test": {"a": [-2, -2, -5], "b": [-1, -3]}},
    }
    facts = {"tokens": [1, 2, 4], "characters": [2, 4, 8], "abs_log_ratio": [0.5, 1.0, 2.0], "inner": [3.0, 1.0, 2.0]}
    return read_study(write_run(tmp_path / "run", scores_of(models, **facts), config_of()))


def values(study, name, scorer="sum_logp", row="dpo", **options):
    """(prompt, value, weight) of a row of the table."""
    metric = resolve(METRICS, name, "metric")
    found = metric.function(measure(study, scorer, **options))
    assert found.columns == VALUES
    return found.filter(pl.col("row") == row).select("prompt", "value", "weight").rows()


def numbers(rows):
    """All numbers of some rows, one after the other."""
    return [x for row in rows for x in row if isinstance(x, float)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("accuracy", [("a", 0.5, 1.0), ("a", 1.0, 1.0), ("b", 1.0, 1.0)]),
        ("gain", [("a", -50.0, 1.0), ("a", 0.0, 1.0), ("b", 100.0, 1.0)]),
        # log ref - log pi of the chosen responses, each once, weighted by its tokens
        ("perplexity_ratio", [("a", 1.0, 1.0), ("b", -3.0, 1.0)]),
        # a: (-2 + 1) - (-2 + 2), (-2 + 1) - (-5 + 3); b: (-1 + 4) - (-3 + 2)
        ("log_ratio_gain", [("a", -1.0, 1.0), ("a", 1.0, 1.0), ("b", 4.0, 1.0)]),
        ("drift", [("a", 0.5, 1.0), ("a", 1.0, 2.0), ("a", 2.0, 4.0), ("b", 0.5, 1.0), ("b", 1.0, 2.0)]),
        ("brier", [("a", 0.25, 1.0), ("a", (1 - sigmoid(3)) ** 2, 1.0), ("b", (1 - sigmoid(2)) ** 2, 1.0)]),
        # of the three responses of a the chosen one shares the best score with another; b has two
        ("best_of_n", [("a", 0.5, 1.0)]),
    ],
)
def test_values_by_hand(study, name, wanted):
    found = values(study, name)
    assert [prompt for prompt, *_ in found] == [prompt for prompt, *_ in wanted]
    assert numbers(found) == pytest.approx(numbers(wanted))


def test_every_metric_is_a_ratio_of_sums_or_a_statistic(study):
    for name in METRICS:
        metric = resolve(METRICS, name, "metric")
        found = metric.function(measure(study))
        assert found.columns == VALUES
        assert metric.title
        if metric.statistic is not None:
            assert isinstance(metric.statistic(found), float)


def test_the_base_gains_nothing_over_itself(study):
    assert values(study, "gain", row="base") == [("a", 0.0, 1.0), ("a", 0.0, 1.0), ("b", 0.0, 1.0)]
    assert values(study, "log_ratio_gain", row="base") == [("a", 0.0, 1.0), ("a", 0.0, 1.0), ("b", 0.0, 1.0)]


def test_best_of_n_knows_nothing_where_a_score_is_unknown(tmp_path):
    models = {("dpo", 1.0): {"test": {"a": [-1, -2, -3]}}}
    study = read_study(write_run(tmp_path / "run", scores_of(models, inner=[1.0, NAN, 0.0]), config_of()))
    ((prompt, value, weight),) = values(study, "best_of_n", "inner")
    assert (prompt, weight) == ("a", 1.0)
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("scorer", "wanted"),
    [
        ("per_character", [0.0, 0.0, 1.0]),  # a: -2/2 < -2/4, -2/2 < -5/8; b: -1/2 > -3/4
        ("implicit", [0.0, 1.0, 1.0]),  # a: -1 < 0, -1 > -2; b: 3 > -1
    ],
)
def test_scorers_by_hand(study, scorer, wanted):
    assert joined_pairs(study, scorer).filter(pl.col("row") == "dpo")["outcome"].to_list() == wanted


def test_scorers_see_the_base_of_one_run_too():
    models = {("base", 0.0): {"test": {"a": [-1, -5]}}, ("dpo", 1.0): {"test": {"a": [-2, -4]}}}
    found = pair_outcomes(scores_of(models), "implicit")
    assert found.select("model", "outcome").rows() == [("base", 0.5), ("dpo", 0.0)]  # -1 < +1
    nothing = pair_outcomes(scores_of({("dpo", 1.0): {"test": {"a": [-2, -4]}}}), "implicit")
    assert same(nothing["outcome"], [NAN])


def test_an_empty_response_has_no_score_per_character():
    found = pair_outcomes(scores_of({("dpo", 1.0): {"test": {"a": [-2, -4]}}}, characters=[0, 3]), "per_character")
    assert same(found["outcome"], [NAN])


# -- elicitation ---------------------------------------------------------------------------------------------------


def test_elicitation_by_hand(tmp_path):
    folder = run_of(tmp_path, "dpo", 1, (1, 1), (1, 0), base_test=(1, 0), base_oos=(0, 0))
    study = read_study(folder)
    found = values(study, "elicitation", capabilities={"far": 0.8})
    assert found[2:] == [("p0", 1.25, 1.0), ("p1", 0.0, 1.0)]
    assert all(math.isnan(value) for _, value, _ in found[:2])
    assert values(study, "differential_elicitation", capabilities={"far": 0.5})[2:] == [("p0", 2.0, 1), ("p1", 0.0, 1)]
    assert all(math.isnan(value) for _, value, _ in values(study, "elicitation"))


def test_capabilities_come_from_runs_on_the_target(tmp_path):
    run_of(tmp_path, "dpo", 1, (1, 1), (1, 0), base_test=(1, 0), base_oos=(0, 0))
    sets = {"test": ("far", "test", "test")}
    for method, outcomes in {"dpo": (1, 0, 1, 1), "sft": (1, 0, 0, 0)}.items():
        config = config_of(method, source="far")
        scores = scores_of({(method, 1.0): {"test": right(*outcomes)}}, sets)
        write_run(tmp_path / config.run_name, scores, config)
    study = read_study(str(tmp_path / "*"))
    assert capabilities(study, joined_pairs(study)) == {"far": 0.75, "toy": 1.0}


def test_a_recorded_capability_counts_before_the_runs(tmp_path):
    folder = run_of(tmp_path, "dpo", 1, (1, 1), (1, 0), base_test=(1, 0), base_oos=(0, 0))
    rows = {"oos": {"accuracy": 0.9, "run": "", "note": ""}, "rnd": {"accuracy": None, "run": "", "note": "none"}}
    (folder / "capability.json").write_text(json.dumps(rows))
    study = read_study(folder)
    assert study.capabilities == {"far": 0.9}
    assert capabilities(study, joined_pairs(study)) == {"far": 0.9, "toy": 1.0}


# -- calibration ---------------------------------------------------------------------------------------------------


def test_calibration_by_hand():
    """Confidences .9 (right), .7 (wrong), .7 (right), .5 (half right), in five bins of [.5, 1]."""
    table = calibration_table(np.array([0.9, 0.3, 0.7, 0.5]), bins=5)
    assert [b.n for b in table.bins] == [1, 0, 2, 0, 1]
    means = [x for b in table.bins if b.n for x in (b.confidence, b.accuracy)]
    assert means == pytest.approx([0.5, 0.5, 0.7, 0.5, 0.9, 1.0])
    assert table.ece == pytest.approx((0 + 2 * 0.2 + 0.1) / 4)
    assert table.rms == pytest.approx(math.sqrt((2 * 0.04 + 0.01) / 4))


def test_a_calibrated_model_has_no_calibration_error():
    """Of 1,000 pairs at confidence q a share q is right."""
    p = np.concatenate([np.repeat([q, 1 - q], [round(1000 * q), round(1000 * (1 - q))]) for q in (0.6, 0.8, 0.95)])
    assert calibration_table(p).ece == pytest.approx(0.0, abs=1e-12)
    assert calibration_table(np.append(p, np.repeat(0.05, 300))).ece > 0.05


def test_unknown_probabilities_have_no_calibration():
    assert math.isnan(calibration_table(np.array([0.5, NAN])).ece)
    assert math.isnan(calibration_table(np.array([])).rms)


def test_reliability_takes_the_sigmoid_of_the_score_difference(study):
    rows = joined_pairs(study, "sum_logp").filter(pl.col("row") == "dpo")
    confidences = sorted(b.confidence for b in reliability(rows).bins if b.n)
    assert confidences == pytest.approx([0.5, sigmoid(2), sigmoid(3)])


# -- GENIES --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", PUBLISHED["evaluations"], ids=lambda e: e["file"])
def test_genies_figures_from_its_published_probabilities(published):
    """To three decimals; the calibration error to the last digit (the means were taken in half precision)."""
    found = genies_metrics(np.array(published["probabilities"]))
    for name in ("accuracy", "average_probability", "brier_score", "rms_calibration_error"):
        assert round(getattr(found, name), 3) == round(published[name], 3), name
    assert found.rms_calibration_error == pytest.approx(published["rms_calibration_error"], abs=1e-12)


def test_genies_differential_elicitation_as_published():
    for *_, accuracy, base, capability, published in PUBLISHED["shifts"]:
        assert differential_elicitation(accuracy, base, capability) == pytest.approx(published, abs=1e-9)


def test_genies_calibration_error_has_bins_of_twenty():
    assert math.isnan(genies_metrics(np.linspace(0.1, 0.9, 10)).rms_calibration_error)
    assert genies_metrics(np.full(200, 0.999)).rms_calibration_error > 0.45  # sure and right
