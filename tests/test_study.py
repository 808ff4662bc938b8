"""Studies: many runs read together, what is refused, what is left out, and their pairs joined to the base's."""

import polars as pl
import pytest

from innerpo.config.labels import group_label, label_of_folder, scaled_label
from innerpo.config.run import default_run
from innerpo.errors import UserError
from innerpo.evaluation.facts import SETS
from innerpo.evaluation.joined import joined_pairs, joined_responses, outcomes
from innerpo.evaluation.study import read_study
from innerpo.evaluation.study_runs import row_named
from study_helpers import NAN, config_of, right, run_of, same, scores_of, write_run

BASE = {"base_test": (1, 0), "base_oos": (0, 1)}


def dpo(root, seed=1, **options):
    return run_of(root, "dpo", seed, (1, 1), (0, 0.5), **BASE, **options)


def test_two_seeds_are_one_method_and_another_learning_rate_is_another(tmp_path):
    for seed in (1, 2):
        dpo(tmp_path, seed)
    dpo(tmp_path, 1, lr=1e-4)
    study = read_study([tmp_path / "dpo_toy_seed*"])
    assert study.runs.select("run", "method", "source", "seed").rows() == [
        ("dpo_toy_seed1", "dpo", "toy", 1),
        (f"dpo_toy_seed1+{config_id(1e-4)}", f"dpo+{group_id(1e-4)}", "toy", 1),
        ("dpo_toy_seed2", "dpo", "toy", 2),
    ]
    assert group_label(config_of(seed=7, source="math", lr=1e-4)) == f"dpo+{group_id(1e-4)}"


def config_id(lr):
    return config_of(lr=lr).run_name.split("+")[1]


def group_id(lr):
    return group_label(config_of(seed=5, source="code", lr=lr)).split("+")[1]


@pytest.mark.parametrize(
    ("name", "strength", "shown"),
    [
        ("dpo", 1.0, "dpo"),
        ("dpo", 0.5, "dpo x 0.5"),
        ("dpo", -1.0, "dpo x -1"),
        ("dpo", 0.0, "dpo x 0"),
        ("base", 0.0, "base"),
        ("steered 2", 0.0, "steered 2"),  # the base along its directions: no adapter that could be scaled
    ],
)
def test_the_name_of_a_policy_at_a_strength(name, strength, shown):
    assert scaled_label(name, strength) == shown


@pytest.mark.parametrize(
    ("name", "label"), [("mine", "mine"), ("base", "base (adapter)"), ("steered 2", "steered 2 (adapter)")]
)
def test_an_adapter_made_elsewhere_is_not_taken_for_the_base(name, label, tmp_path):
    (tmp_path / name).mkdir()
    assert label_of_folder(tmp_path / name, default_run("dpo")) == label


def test_outcomes_carry_their_labels(tmp_path):
    study = read_study(dpo(tmp_path))
    table = outcomes(study)
    assert table.columns == [
        *("run", "method", "source", "seed", "model", "strength", "row", "set", "dataset", "split", "role", "kind"),
        *("pair", "prompt", "outcome"),
    ]
    assert table.select("row", "set", "role", "pair", "outcome").rows() == [
        ("base", "test", "test", "toy/p0/1", 1.0),
        ("dpo", "test", "test", "toy/p0/1", 1.0),
        ("base", "test", "test", "toy/p1/1", 0.0),
        ("dpo", "test", "test", "toy/p1/1", 1.0),
        ("base", "oos", "oos", "far/p0/1", 0.0),
        ("dpo", "oos", "oos", "far/p0/1", 0.0),
        ("base", "oos", "oos", "far/p1/1", 1.0),
        ("dpo", "oos", "oos", "far/p1/1", 0.5),
    ]


def test_the_base_stands_beside_each_pair_and_response(tmp_path):
    models = {("base", 0.0): {"test": {"a": [-1, -2, -3]}}, ("dpo", 1.0): {"test": {"a": [-4, -2, -3]}}}
    study = read_study(write_run(tmp_path / "run", scores_of(models), config_of()))
    pairs = joined_pairs(study, "sum_logp").filter(pl.col("model") == "dpo")
    columns = ["chosen", "rejected", "logp_chosen", "base_logp_chosen", "base_logp_rejected", "outcome", "base_outcome"]
    assert pairs.select(columns).rows() == [(0, 1, -4.0, -1.0, -2.0, 0.0, 1.0), (0, 2, -4.0, -1.0, -3.0, 0.0, 1.0)]
    responses = joined_responses(study).filter(pl.col("model") == "dpo")
    assert responses.select("response", "is_chosen", "logp", "base_logp").rows() == [
        (0, True, -4.0, -1.0),
        (1, False, -2.0, -2.0),
        (2, False, -3.0, -3.0),
    ]
    implicit = joined_pairs(study, "implicit")
    assert implicit.select("row", "score_chosen", "outcome").rows() == [
        *[("base", 0.0, 0.5), ("dpo", -3.0, 0.0)] * 2,
    ]


def test_rows_are_named_by_model_and_strength(tmp_path):
    a = {"test": right(1, 0)}
    models = {("base", 0.0): a, ("dpo", 1.0): a, ("dpo", 0.5): a, ("steered 2", 0.0): a, ("Qwen", 0.0): a}
    study = read_study(write_run(tmp_path / "run", scores_of(models), config_of(lr=1e-4)))
    label = f"dpo+{group_id(1e-4)}"
    assert set(outcomes(study)["row"]) == {"base", label, f"{label} x 0.5", f"{label} steered 2", "Qwen"}


def test_an_adapter_made_elsewhere_is_named_by_its_folder(tmp_path):
    models = {("base", 0.0): {"test": right(1)}, ("theirs", 1.0): {"test": right(0)}}
    write_run(tmp_path / "theirs" / "eval-12345678", scores_of(models))
    study = read_study(tmp_path / "theirs" / "eval-12345678")
    assert study.runs.select("run", "method", "source", "seed", "run_id").rows() == [
        ("theirs/eval-12345678", "theirs/eval-12345678", "toy", None, "")
    ]


def test_scores_without_a_base_have_no_implicit_reward(tmp_path):
    models = {("dpo", 1.0): {"test": right(1)}}
    study = read_study(write_run(tmp_path / "run", scores_of(models), config_of()))
    assert same(joined_pairs(study, "implicit")["score_chosen"], [NAN])


def test_a_set_without_description_has_the_role_of_its_name(tmp_path):
    models = {("base", 0.0): {"test": right(1), "code": right(1)}}
    scores = scores_of(models, {"test": ("toy", "test", "test"), "code": ("code", "test", "oos")})
    bare = type(scores)(scores.responses, scores.pairs, pl.DataFrame(schema=SETS))
    study = read_study(write_run(tmp_path / "run", bare, config_of()))
    assert dict(outcomes(study).select("set", "role").rows()) == {"test": "test", "code": "extra"}


# -- given twice, scored twice -------------------------------------------------------------------------------------


def test_a_run_given_twice_is_kept_once(tmp_path):
    folder = dpo(tmp_path / "a")
    copy = run_of(tmp_path / "b", "dpo", 1, (1, 1), (0, 0.5), **BASE)
    study = read_study([folder, folder, str(folder.parent / "*"), copy])
    assert study.runs["run"].to_list() == ["dpo_toy_seed1"]
    assert len(study.responses) == 16


def test_scores_of_other_sets_beneath_a_run_add_to_it(tmp_path):
    folder = dpo(tmp_path)
    sets = {"test": ("toy", "test", "test"), "oos": ("else", "test", "oos")}
    models = {
        ("base", 0.0): {"test": right(1, 0), "oos": right(1)},
        ("dpo", 1.0): {"test": right(1, 1), "oos": right(0)},
    }
    write_run(folder / "eval-1234", scores_of(models, sets))
    study = read_study([folder, folder / "eval-1234"])
    assert study.runs["run"].to_list() == ["dpo_toy_seed1", "dpo_toy_seed1/eval-1234"]
    assert set(study.runs["method"]) == {"dpo"}
    found = outcomes(study).filter(pl.col("row") == "dpo").group_by("dataset").len()
    assert dict(found.rows()) == {"toy": 2, "far": 2, "else": 1}


# -- what is refused -----------------------------------------------------------------------------------------------


def other_base(root):
    models = {("base", 0.0): {"test": right(1)}, ("ipo", 1.0): {"test": right(1)}}
    return write_run(root / "other", scores_of(models, reference="base-2"), config_of("ipo"))


def truncated(root):
    folder = dpo(root / "cut")
    path = folder / "scores.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    return folder


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (other_base, r"other and \S+dpo_toy_seed1 were scored against different base models"),
        (truncated, r"cannot read \S+scores.parquet as scores"),
        (lambda root: root / "nothing*", "no folder matches '.*nothing\\*'"),
        (lambda root: (root / "empty").mkdir() or root / "empty", "holds no scores.parquet"),
    ],
)
def test_what_cannot_be_compared_is_refused_or_left_out(tmp_path, bad, says):
    good, refused = dpo(tmp_path), bad(tmp_path)
    with pytest.raises(UserError, match=says):
        read_study([good, refused])
    study = read_study([good, refused], strict=False)
    assert study.runs["run"].to_list() == ["dpo_toy_seed1"]
    (fault,) = study.faults
    assert len(fault.splitlines()) == 1
    with pytest.raises(UserError):
        read_study([refused / "none" if bad is other_base else refused], strict=False)


def test_no_runs_at_all():
    with pytest.raises(UserError, match="no runs were given"):
        read_study([])


def test_a_row_by_the_name_of_its_method():
    rows = ["base", "dpo+2b6a9a08", "innerpo-none", "innerpo-none+d956409c", "dpo+2b6a9a08"]
    assert row_named("dpo", rows) == "dpo+2b6a9a08"
    assert row_named("innerpo-none", rows) == "innerpo-none"  # that very row
    assert row_named("dpo", [*rows, "dpo+11111111"]) is None  # which of the two?
    assert row_named("ipo", rows) is None
