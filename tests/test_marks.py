"""Marks by hand: each on a study that has it and on one that just has not."""

import polars as pl
import pytest

from innerpo.evaluation.marks import SIGNS, find_marks, short, winners
from innerpo.evaluation.study import read_study
from study_helpers import config_of, right, run_of, scores_of, write_run

BASE = {"base_test": (1, 0, 0, 0), "base_oos": (1, 1, 0, 0)}


def marks_of(folders, kind):
    return [(m.row, m.dataset, m.text) for m in find_marks(read_study(folders)) if m.kind == kind]


@pytest.mark.parametrize(("test", "marked"), [((1, 0, 0, 0), True), ((0, 0, 0, 0.5), True), ((1, 0.5, 0, 0), False)])
def test_did_not_learn(tmp_path, test, marked):
    found = marks_of([run_of(tmp_path, "dpo", 1, test, (0, 0, 0, 0), **BASE)], "did not learn")
    mean = short(sum(test) / 4)
    assert found == ([("dpo", "toy", f"test accuracy {mean} is not above the base's .250")] if marked else [])


@pytest.mark.parametrize(("logp", "marked"), [(-1.6, False), (-1.8, True)])
def test_incoherent(tmp_path, logp, marked):
    """Two tokens: 2 exp(.693) is the limit, so -1.386 - the base's 0 is just at 2."""
    models = {("base", 0.0): {"test": {"a": [-0.3, -1]}}, ("dpo", 1.0): {"test": {"a": [logp, -2]}}}
    folder = write_run(tmp_path / "run", scores_of(models, tokens=[2, 1]), config_of())
    text = "perplexity on chosen is 2.12 times the base's"
    assert marks_of([folder], "incoherent") == ([("dpo", "toy", text)] if marked else [])


@pytest.mark.parametrize(("longer", "marked"), [(6, False), (7, True), (4, False), (3, True)])
def test_length(tmp_path, longer, marked):
    models = {("base", 0.0): {"test": right(*[1] * 10)}}
    scores = scores_of(models)
    characters = [9 if r == (i // 2 >= longer) else 5 for i, r in enumerate(scores.responses["response"].to_list())]
    scores = type(scores)(scores.responses.with_columns(characters=list_column(characters)), scores.pairs, scores.sets)
    text = f"the longer response is the chosen one in {short(longer / 10)} of the pairs"
    assert marks_of([write_run(tmp_path / "run", scores)], "length") == ([("", "toy", text)] if marked else [])


def list_column(values):
    return pl.Series(values, dtype=pl.Int64)


def test_scorer_dependent(tmp_path):
    """By the sum ipo wins (-2 > -3), by the mean over 1 and 3 tokens dpo does (-2/1 < -3/3 for ipo)."""
    for method, logps in {"dpo": [-3, -2.5], "ipo": [-2, -3]}.items():
        models = {("base", 0.0): {"test": {"a": [-1, -9]}}, (method, 1.0): {"test": {"a": logps}}}
        write_run(tmp_path / method, scores_of(models, tokens=[3, 1], characters=[3, 3]), config_of(method))
    study = read_study([tmp_path / "dpo", tmp_path / "ipo"])
    table = {scorer: winner for *_, scorer, winner, _ in winners(study).rows()}
    assert table == {"mean_logp": "dpo = ipo", "sum_logp": "ipo", "per_character": "ipo", "implicit": "dpo = ipo"}
    ((row, dataset, text),) = [(m.row, m.dataset, m.text) for m in find_marks(study) if m.kind == "scorer-dependent"]
    assert (row, dataset) == ("", "toy")
    assert "mean_logp: dpo = ipo (1.000), sum_logp: ipo (1.000)" in text


def test_one_method_alone_wins_by_every_scorer(tmp_path):
    assert marks_of([run_of(tmp_path, "dpo", 1, (1, 1, 0, 0), (0, 0, 0, 0), **BASE)], "scorer-dependent") == []


@pytest.mark.parametrize(("near", "marked"), [(-1, False), (0, False), (3, True)])
def test_overlap(tmp_path, near, marked):
    scores = scores_of({("base", 0.0): {"test": right(1, 0, 1, 1)}}, {"test": ("toy", "test", "test")}, near=near)
    text = "3 of 4 prompts are or nearly are training prompts (0 equal)"
    assert marks_of([write_run(tmp_path / "run", scores)], "overlap") == ([("", "toy", text)] if marked else [])


def test_every_mark_has_a_sign_of_its_own():
    assert len(set(SIGNS.values())) == len(SIGNS) == 5


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0.5, ".500"), (-0.0214, "-.021"), (1.0, "1.000"), (-1.25, "-1.250"), (0.0, ".000"), (10.5, "10.500")],
)
def test_short_numbers(value, wanted):
    assert short(value) == wanted
