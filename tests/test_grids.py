"""Sums by seed and prompt: seeds that were scored differently, rows of other strengths, and tests on the right rows."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from innerpo.evaluation.columns import Column
from innerpo.evaluation.curves import curves
from innerpo.evaluation.estimates import compare_grids, statistic_of
from innerpo.evaluation.grids import Grid, grids
from innerpo.evaluation.joined import outcomes
from innerpo.evaluation.marks import find_marks, winners
from innerpo.evaluation.study import read_study
from innerpo.registry import METRICS, resolve
from study_helpers import config_of, name_of, right, run_of, scores_of, write_run


def values(rows):
    """A frame of one row of a table on one set from (seed, run, prompt, value, weight)."""
    usual = {"row": "dpo", "model": "dpo", "source": "toy", "dataset": "toy", "split": "test", "role": "test"}
    usual |= {"set": "test", "strength": 1.0}
    names = ("seed", "run", "prompt", "value", "weight")
    return pl.DataFrame([usual | dict(zip(names, row, strict=True)) for row in rows])


@pytest.mark.parametrize("first", [1, 3])
def test_a_prompt_counts_as_much_for_a_seed_that_was_scored_on_fewer_of_its_responses(first):
    """eval.negatives=one for one seed: one pair a prompt and not three; both have .75."""
    weights = {1: first, 2: 4 - first}
    rows = [
        (seed, f"r{seed}", f"p{i}", w * right, float(w))
        for seed, w in weights.items()
        for i, right in enumerate((1, 1, 1, 0))
    ]
    (grid,) = grids(values(rows)).values()
    np.testing.assert_allclose(grid.values, [[first, first, first, 0.0]] * 2)
    assert grid.mean == pytest.approx(0.75)


def test_mcnemar_is_of_the_seed_that_both_have():
    """A has seeds 0 and 2, B has seed 2, and there they agree: no pair is discordant."""
    prompts = tuple(f"p{i}" for i in range(60))
    ones, mixed = np.ones(60), (np.arange(60) % 2).astype(float)
    a = Grid((0, 2), prompts, np.stack([1.0 - mixed, mixed]), ones, 60)
    b = Grid((2,), prompts, mixed[None], ones, 60)
    accuracy = resolve(METRICS, "accuracy", "metric")
    assert compare_grids([a], [b], accuracy).p_mcnemar == 1.0


def test_prompts_that_all_differ_alike_are_no_certainty():
    prompts = tuple(f"p{i}" for i in range(5))
    a, b = (Grid((1,), prompts, np.full((1, 5), x), np.ones(5), 5) for x in (1.0, 0.0))
    found = compare_grids([a], [b], resolve(METRICS, "accuracy", "metric"))
    assert found.p > 0.0
    assert found.difference.low < found.difference.mean == 1.0
    assert found.p_mcnemar == found.p_sign_flip == pytest.approx(2 / 2**5)
    same = compare_grids([a], [a], resolve(METRICS, "accuracy", "metric"))
    assert same.p == 1.0
    assert same.difference.low < 0.0 < same.difference.high


def test_a_negative_strength_has_a_row_of_its_own(tmp_path):
    label = config_of("dpo", 1).method_label
    models = {
        ("base", 0.0): {"test": right(1, 0), "oos": right(1, 0)},
        (label, -0.5): {"test": right(0, 0), "oos": right(0, 0)},
        (label, 1.0): {"test": right(1, 1), "oos": right(1, 1)},
    }
    write_run(tmp_path / name_of("dpo", 1), scores_of(models), config_of("dpo", 1))
    found = outcomes(read_study(str(tmp_path / "*"))).group_by("row").agg(pl.col("outcome").mean()).sort("row")
    assert found.rows() == [("base", 0.5), ("dpo", 1.0), ("dpo x -0.5", 0.0)]


def test_a_strength_that_lacks_a_seed_is_left_out_and_no_seed_is(tmp_path):
    label = config_of("dpo", 1).method_label
    half = {"test": right(1, 1), "oos": right(0, 1)}
    models = {
        ("base", 0.0): {"test": right(1, 0), "oos": right(1, 0)},
        (label, 0.5): half,
        (label, 1.0): {"test": right(1, 1), "oos": right(1, 1)},
    }
    write_run(tmp_path / name_of("dpo", 1), scores_of(models), config_of("dpo", 1))
    for seed in (2, 3):
        run_of(tmp_path, "dpo", seed, (1, 1), (0, 0), (1, 0), (1, 0))
    (curve,) = curves(read_study(str(tmp_path / "*")))
    assert sorted(curve.by_seed) == [1, 2, 3]
    assert [(p.strength, p.oos) for p in curve.points] == [(0.0, 0.5), (1.0, pytest.approx(1 / 3))]


def test_the_prompts_that_a_second_scoring_added_are_no_second_seed():
    """A metric that is no mean, of 4 prompts and of one that the run was scored on later."""
    rows = [(1, "r", f"p{i}", float(i), 1.0) for i in range(4)] + [(1, "r/eval-1", "p9", 100.0, 1.0)]
    metric = replace(resolve(METRICS, "accuracy", "metric"), statistic=lambda part: float(part["value"].mean()))
    column = Column("test", "test", (("toy", "toy", "test", "test"),))
    found = statistic_of(values(rows), "dpo", column, metric)
    assert (found.mean, found.seeds) == (1.5, 1)


def test_a_mark_and_a_winner_are_of_the_first_scoring(tmp_path):
    """Of the prompts that the policy gets right, not of these and those that were scored later, which it gets wrong."""
    config = config_of("dpo", 1)
    run = run_of(tmp_path, "dpo", 1, (1, 1), (1, 1), (1, 0), (1, 0))
    later = right(0, 0, 0, prefix="q")
    models = {(m, s): {"test": later, "oos": later} for m, s in (("base", 0.0), (config.method_label, 1.0))}
    write_run(run / "eval-0123abcd", scores_of(models))
    study = read_study([str(run), str(run / "eval-0123abcd")])
    assert len(study.pairs) == 10
    found = winners(study, ["mean_logp"])
    assert found["accuracy"].to_list() == [1.0, 1.0]
    assert not [mark for mark in find_marks(study) if mark.kind == "did not learn"]
