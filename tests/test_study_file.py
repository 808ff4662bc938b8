"""Study files and the flags of a sweep: which runs they stand for, in which order and rows; and what is refused."""

from pathlib import Path

import pytest

from innerpo.cli.study_words import split_fields
from innerpo.errors import UserError
from innerpo.experiments.launch_options import RayOptions
from innerpo.experiments.plan import in_folder, ordered, preferred, read_plan, write_plan
from innerpo.experiments.study import planned, read_study_file, study_of
from innerpo.experiments.sweep import find_study, sweep

STUDIES = Path(__file__).parents[1] / "studies"
TWO = {"methods": ["dpo", "innerpo"], "datasets": ["math", "truthful_qa"]}


def rows(values, **changes):
    return [(r.row, r.config.data.dataset, r.config.training.seed) for r in study_of(values, "s", changes).plan.runs]


def test_every_method_on_every_data_set_with_every_seed_those_that_share_most_together():
    found = rows(TWO | {"seeds": [1, 2]})
    one = [("dpo", 1), ("innerpo", 1), ("dpo", 2), ("innerpo", 2)]
    assert found == [(row, data, seed) for data in ("math", "truthful_qa") for row, seed in one]


def test_what_a_method_says_of_itself_comes_before_what_the_study_varies():
    values = {"methods": ["dpo", {"method": "ipo", "training.lr": 5e-5}], "datasets": ["math"]}
    plan = study_of(values | {"product": {"training.lr": [1e-4, 2e-4]}}, "s").plan
    assert [(r.config.method.name, r.config.training.lr) for r in plan.runs] == [
        ("dpo", 1e-4),
        ("dpo", 2e-4),
        ("ipo", 5e-5),
    ]


def test_models_come_before_data_sets():
    plan = study_of(TWO | {"models": ["a", "b"]}, "s").plan
    assert [r.config.model.base_model for r in plan.runs] == ["a"] * 4 + ["b"] * 4
    assert len({r.name for r in plan.runs}) == 8


def test_groups_are_done_one_after_another_with_what_they_share():
    values = {
        "datasets": ["math", "cooking"],
        "options": {"data": {"max_train_prompts": 432}},
        "strengths": [0.5, 1],
        "groups": [{"methods": ["dpo"]}, {"methods": ["ipo"], "options": {"training.lr": 1e-5}, "seeds": [3]}],
    }
    runs = study_of(values, "s").plan.runs
    assert [(r.row, r.group, r.config.data.dataset) for r in runs] == [
        *(("dpo", 0, d) for d in ("math", "cooking")),
        *(("ipo", 1, d) for d in ("math", "cooking")),
    ]
    assert {r.config.data.max_train_prompts for r in runs} == {432}
    assert {r.config.eval.strengths for r in runs} == {(0.5, 1.0)}
    assert [r.config.training.lr for r in runs] == [2e-4, 2e-4, 1e-5, 1e-5]
    assert [r.config.training.seed for r in runs] == [1, 1, 3, 3]


def test_products_and_paired_values():
    values = {
        "methods": ["dpo"],
        "datasets": ["math"],
        "product": {"training.lr": [1e-4, 2e-4], "method": {"beta": [0.1, 0.3]}},
        "paired": [{"training.epochs": [1, 2], "data.batch_size": [8, 4]}],
    }
    found = [r.config for r in study_of(values, "s").plan.runs]
    assert len(found) == 8
    assert {(c.training.epochs, c.data.batch_size) for c in found} == {(1.0, 8), (2.0, 4)}
    assert {(c.training.lr, c.method.beta) for c in found} == {(a, b) for a in (1e-4, 2e-4) for b in (0.1, 0.3)}
    assert study_of(values, "s").plan.runs[0].row == "dpo (lr=0.0001, beta=0.1, epochs=1, batch_size=8)"
    assert len({r.row for r in study_of(values, "s").plan.runs}) == 8


def test_rows_with_fields_and_names_of_their_own():
    methods = [
        {"method": "reweight", "row": "reweight x10", "method.reweight_factor": 10},
        {"method": "reweight", "method.reweight_factor": 4.5},
        {"method": "innerpo", "row": "ours", "product": {"method.alpha": [0.1, 0.2]}},
    ]
    found = study_of({"methods": methods, "datasets": ["math"]}, "s").plan.runs
    assert [r.row for r in found] == [
        *("reweight x10", "reweight (reweight_factor=4.5)", "ours (alpha=0.1)", "ours (alpha=0.2)")
    ]
    assert [r.config.method.reweight_factor for r in found[:2]] == [10.0, 4.5]


def test_a_shift_names_its_target():
    (run,) = study_of({"methods": ["dpo"], "datasets": ["math -> cooking"]}, "s").plan.runs
    assert (run.config.data.dataset, run.config.eval.oos_dataset) == ("math", "cooking")
    both = study_of({"methods": ["dpo"], "datasets": ["math -> cooking", "math -> code"]}, "s").plan.runs
    assert len({r.name for r in both}) == 1  # trained once, scored on each
    assert len({r.id for r in both}) == 2


def test_a_run_that_stands_twice_is_done_once():
    assert len(study_of(TWO | {"methods": ["dpo", "dpo"]}, "s").plan.runs) == 2
    assert len(study_of(TWO | {"groups": [{}, {"methods": ["dpo", "ipo"]}]}, "s").plan.runs) == 6


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"datasets": ["math"]}, "s names no methods"),
        ({"methods": ["dpo"]}, "s names no datasets"),
        ({"method": ["dpo"]}, "s: unknown key 'method'; did you mean 'methods'"),
        (TWO | {"methods": ["dpoo"]}, "unknown method 'dpoo'; did you mean 'dpo'"),
        (TWO | {"seeds": 3}, "s.seeds must be a list, got 3"),
        (TWO | {"seeds": ["one"]}, "seed: 'one' is not a int"),
        (
            TWO | {"options": {"training": {"lrr": 1}}},
            "'training.lrr' is no field of a run; did you mean 'training.lr'",
        ),
        (TWO | {"options": {"training.lr": "fast"}}, "s.training.lr: 'fast' is not a float"),
        (TWO | {"product": {"training.lr": 1e-4}}, "s.product.training.lr must be a list"),
        (
            TWO | {"paired": [{"training.lr": [1, 2], "training.epochs": [1]}]},
            "training.lr has 2, training.epochs has 1",
        ),
        (TWO | {"groups": [{"seedz": [1]}]}, r"s.groups\[1\]: unknown key 'seedz'"),
        (TWO | {"groups": ["dpo"]}, r"s.groups\[1\] must be a mapping"),
        (TWO | {"methods": [{"row": "x"}]}, "a mapping with the key method"),
        (TWO | {"datasets": [3]}, "give a data set's name"),
        (
            {"methods": ["dpo"], "datasets": ["math"], "groups": [{}, {"options": {"training.lr": 1e-3}}]},
            "different runs in one row of tables, 'dpo'",
        ),
    ],
)
def test_what_is_no_study_is_refused_with_its_place(values, says):
    with pytest.raises(UserError, match=says):
        study_of(values, "s")


def test_what_is_given_beside_a_file_comes_first(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("methods: [dpo, ipo]\ndatasets: [math]\noptions: {training: {lr: 1e-5}}\n")
    assert read_study_file(path).output_dir == Path("outputs/mine")
    options = {"methods": ["dpo"], "seeds": [4], "training.epochs": 2.0, "training.lr": [1e-3, 1e-4]}
    found = find_study(path, options, tmp_path / "out")
    assert found.output_dir == tmp_path / "out"
    seen = [(r.row, r.config.training.lr, r.config.training.epochs, r.config.training.seed) for r in found.plan.runs]
    assert seen == [("dpo (lr=0.001)", 1e-3, 2.0, 4), ("dpo (lr=0.0001)", 1e-4, 2.0, 4)]


def test_a_plan_is_read_back_as_it_was(tmp_path):
    methods = ["dpo", {"method": "innerpo", "row": "ours", "method.extra": {"inner": 0.5}, "eval.sets": ["test"]}]
    plan = in_folder(study_of({"methods": methods, "datasets": ["math"]}, "s").plan, tmp_path)
    assert read_plan(tmp_path, write_plan(plan, tmp_path)) == plan
    moved = in_folder(plan, tmp_path / "elsewhere")
    assert moved.id == plan.id
    with pytest.raises(UserError, match="is no plan of a sweep"):
        read_plan(tmp_path, "none")


def test_a_plan_of_configs_of_a_program():
    configs = [r.config for r in study_of(TWO, "s").plan.runs]
    plan = planned(configs)
    assert [r.config for r in plan.runs] == configs
    assert {r.row for r in plan.runs} == {""}
    with pytest.raises(UserError, match="nothing to run"):
        ordered([])


def test_a_worker_goes_on_with_what_it_has_at_hand_and_leaves_what_others_are_at():
    runs = list(study_of(TWO | {"seeds": [1, 2]}, "s").plan.runs)
    math, truthful = runs[:4], runs[4:]
    assert preferred(runs, None, []) == runs
    assert preferred(runs, None, [math[0].shared]) == truthful + math
    assert preferred(runs, math[0], [math[0].shared]) == runs
    assert preferred(runs, truthful[0], []) == truthful + math
    grouped = study_of(TWO | {"groups": [{}, {"methods": ["ipo"]}]}, "s").plan.runs
    assert [r.group for r in preferred(grouped, grouped[-1], [grouped[0].shared])] == [r.group for r in grouped]


def test_fields_on_the_command_line():
    words = ["s.yaml", "--methods", "dpo", "--training.lr", "1e-4", "2e-4", "--training.epochs=2", "--seeds", "1", "2"]
    words += [
        "--eval.strengths",
        "0.5",
        "1",
        "--method.extra",
        "inner",
        "0.5",
        "--data.shuffled_prompts",
        "--workers=2",
    ]
    words += ["--model.base-model", "a", "b"]
    others, fields = split_fields(words, "innerpo sweep")
    assert others == ["s.yaml", "--methods", "dpo", "--seeds", "1", "2", "--workers=2"]
    assert fields == {
        "training.lr": [1e-4, 2e-4],
        "training.epochs": 2.0,
        "eval.strengths": (0.5, 1.0),
        "method.extra": {"inner": 0.5},
        "data.shuffled_prompts": True,
        "model.base_model": ["a", "b"],
    }
    found = find_study(None, fields | {"methods": ["innerpo"], "datasets": ["math"]}).plan.runs
    assert len(found) == 4
    assert {r.config.eval.strengths for r in found} == {(0.5, 1.0)}
    assert {r.config.method.extra["inner"] for r in found} == {0.5}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--training.lrr", "1"], "there is no option --training.lrr; did you mean '--training.lr'"),
        (["--training.lr", "fast"], "--training.lr takes a number, not 'fast'"),
        (["--training.lr"], "--training.lr needs a value"),
        (["--data.negatives", "two"], "--data.negatives is one of one or all"),
        (["--method.extra", "inner"], "--method.extra takes pairs"),
        (["--method.extra", "inner", "x"], "--method.extra takes a number, not 'x'"),
        (["--data.shuffled_prompts=7"], "is a switch"),
    ],
)
def test_faulty_fields_on_the_command_line(words, says):
    with pytest.raises(UserError, match=says):
        split_fields(words, "innerpo sweep")


def test_none_on_the_command_line_is_no_text():
    words = ["--model.revision", "None", "main", "--data.cache_dir", "None", "--data.max_train_prompts=3"]
    assert split_fields(words, "innerpo sweep")[1] == {
        "model.revision": [None, "main"],
        "data.cache_dir": None,
        "data.max_train_prompts": 3,
    }
    found = find_study(TWO, {"model.revision": None, "data.cache_dir": None}).plan.runs
    assert {(r.config.model.revision, r.config.data.cache_dir) for r in found} == {(None, None)}


FULL = {
    "methods": ["dpo", {"method": "ipo", "row": "ipo slow", "training.lr": 1e-5, "paired": [{"training.epochs": [2]}]}],
    "datasets": ["math -> cooking"],
    "seeds": [1, 2],
    "models": ["a"],
    "strengths": [0.5, 1],
    "suite": "headline",
    "options": {"training": {"warmup": 0.2}},
    "product": {"training.epochs": [1, 3], "data.batch_size": [4, 8]},
    "groups": [{}, {"options": {"training.lr": 1e-3}, "methods": [{"method": "dpo", "row": "fast"}]}],
}


@pytest.mark.parametrize(
    ("words", "value", "n_runs"),
    [
        ("--eval.strengths 1", lambda c: c.eval.strengths == (1.0,), 20),
        ("--training.seed 7", lambda c: c.training.seed == 7, 10),
        ("--training.seed 7 8 9", lambda c: c.training.seed in (7, 8, 9), 30),
        ("--model.base_model foo", lambda c: c.model.base_model == "foo", 20),
        ("--model.base_model foo bar", lambda c: c.model.base_model in ("foo", "bar"), 40),
        ("--data.dataset code", lambda c: c.data.dataset == "code", 20),
        ("--training.epochs=5", lambda c: c.training.epochs == 5.0, 12),
        ("--training.lr 7e-5", lambda c: c.training.lr == 7e-5, 12),
        ("--training.lr 7e-5 8e-5", lambda c: c.training.lr in (7e-5, 8e-5), 24),
        ("--training.warmup 0.3", lambda c: c.training.warmup == 0.3, 20),
        ("--data.batch_size 2", lambda c: c.data.batch_size == 2, 10),
    ],
)
def test_a_flag_comes_before_whatever_a_file_says(words, value, n_runs):
    """Lists, short keys, products, pairs, and the own values of a method and of a group."""
    _, fields = split_fields(words.split(), "innerpo sweep")
    plan = find_study(FULL, fields).plan
    assert all(value(r.config) for r in plan.runs), [r.row for r in plan.runs if not value(r.config)]
    assert len(plan.runs) == n_runs
    assert not all(value(r.config) for r in study_of(FULL, "s").plan.runs)


def test_flags_come_before_the_headline_study():
    words = "--eval.strengths 1.0 --training.seed 7 --model.base_model foo --eval.sets test"
    _, fields = split_fields(words.split(), "innerpo sweep")
    found = [r.config for r in find_study(STUDIES / "headline.yaml", fields).plan.runs]
    assert {(c.eval.strengths, c.eval.sets, c.training.seed, c.model.base_model) for c in found} == {
        ((1.0,), ("test",), 7, "foo")
    }


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"seeds": [1], "training.seed": 2}, "options: training.seed and seeds say the same"),
        ({"strengths": [1.0], "eval.strengths": [0.5]}, "options: eval.strengths and strengths say the same"),
        ({"eval.oos_dataset": "code"}, "eval.oos_dataset of dpo is named by the lists of the study already"),
    ],
)
def test_two_that_say_the_same_are_refused(given, says):
    with pytest.raises(UserError, match=says):
        find_study(FULL, given)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (TWO | {"seeds": [1], "options": {"training.seed": 2}}, "s: training.seed and seeds say the same"),
        (TWO | {"methods": [{"method": "dpo", "data.dataset": "code"}]}, "data.dataset of dpo is named by the lists"),
        (TWO | {"seeds": [1], "paired": [{"training.seed": [2]}]}, "training.seed of dpo is named by the lists"),
        (
            TWO | {"options": {"training.lr": 1e-3}, "product": {"training.lr": [1e-4]}},
            "training.lr of dpo is varied, and has one value as well",
        ),
        (
            TWO | {"product": {"training.lr": [1e-4]}, "paired": [{"training": {"lr": [1e-3]}}]},
            "training.lr is varied twice",
        ),
    ],
)
def test_a_file_that_says_a_thing_twice_is_refused(values, says):
    with pytest.raises(UserError, match=says):
        study_of(values, "s")


def test_groups_may_be_given_beside_a_study():
    found = find_study(None, {"datasets": ["math"], "groups": [{"methods": ["dpo"]}, {"methods": ["ipo"]}]}).plan
    assert [(r.row, r.group) for r in found.runs] == [("dpo", 0), ("ipo", 1)]


# -- the studies of the repository -------------------------------------------------------------------------------------


def test_the_headline_study_is_the_one_that_is_promised():
    plan = read_study_file(STUDIES / "headline.yaml").plan
    groups = {r.group for r in plan.runs}
    first = [r for r in plan.runs if r.group == 0]
    assert len(first) == len({r.name for r in first}) == 75
    assert {r.row for r in first} == {"dpo", "residual", "residual-permuted", "drift-only", "innerpo-none"}
    assert len(groups) == 2
    assert {r.config.data.max_train_prompts for r in plan.runs} == {432}
    assert {r.config.eval.max_prompts for r in plan.runs} == {150}
    assert {r.config.training.seed for r in plan.runs} == {1, 2, 3}
    assert {(r.config.eval.strengths, r.config.eval.strength_sets) for r in plan.runs} == {
        ((0.5, 1.0), ("test", "oos"))
    }
    assert {r.config.model.base_model for r in plan.runs} == {"smollm2-135m"}


def test_the_screen_sees_development_shifts_only():
    plan = read_study_file(STUDIES / "screen.yaml").plan
    development = {
        *(("arc_easy", "arc_hard"), ("truthful_qa", "alpaca_mmlu"), ("alpaca_low_quality", "alpaca_high_quality")),
        *(("alpaca_mmlu", "wrong_arc"), ("alpaca_mmlu", "ranking_logic")),
    }
    assert {(r.config.data.dataset, r.config.eval.oos_dataset) for r in plan.runs} <= development
    assert {r.config.training.seed for r in plan.runs} == {1, 2, 3}


def test_the_screen_has_the_controls_of_its_candidates():
    """Those that must lose, by docs/methods.md."""
    rows = {r.row for r in read_study_file(STUDIES / "screen.yaml").plan.runs}
    assert {"reweight-random-pairs", "soft-ablate-random-cue", "random-labels", "dpo"} <= rows
    assert {"innerpo-none", "artifact-direction", "random-direction"} <= rows  # of context-direction
    assert {"mismatch-foreign", "mismatch-ties", "anchor-drift-self", "anchor-kl-self"} <= rows
    assert {"residual-permuted", "residual-length", "residual-reversed"} <= rows
    assert {"ablate-random-cue", "ablate-top", "ablate-shared", "inoculate-random-cue", "inoculate-reversed"} <= rows


def test_a_base_in_memory_is_no_workers_base(tmp_path):
    for how in ({"workers": 2}, {"launcher": "ray"}):
        with pytest.raises(UserError, match="a base in memory is this process's own"):
            sweep(TWO, base=object(), output_dir=tmp_path, **how)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"options": {"training.overwrite": True}},
            "training.overwrite is nothing that a study says: finished",
        ),
        ({"options": {"eval": {"capability": "dpo"}}}, "eval.capability is nothing that a study says: it is"),
        ({"archive": True}, "s.archive must be the path of a folder, got True"),
        ({"other_archives": "one"}, "s.other_archives must be a list, got 'one'"),
        ({"other_archives": ["one", 2]}, "s.other_archives must be the path of a folder, got 2"),
        ({"output_dir": 3}, "s.output_dir must be the path of a folder, got 3"),
    ],
)
def test_what_a_study_cannot_say_is_refused(values, says):
    with pytest.raises(UserError, match=says):
        study_of(TWO | values, "s")
    assert study_of(TWO | {"options": {"training.overwrite": False}}, "s").plan.runs


def test_words_that_would_be_lost_are_refused(tmp_path):
    study = tmp_path / "mine.yaml"
    study.write_text("methods: [dpo]")
    with pytest.raises(UserError, match=r"stands among the values of --model.base_model; a study file comes"):
        split_fields(["--model.base_model", "some/model", str(study)], "innerpo sweep")
    with pytest.raises(UserError, match=r"--training.lr is given twice; give all its values at once: --tr"):
        split_fields(["--training.lr=1e-4", "--training.lr=2e-4"], "innerpo sweep")


@pytest.mark.parametrize("options", [{"cpus": 0.0}, {"cpus": -1.0}, {"gpus": -0.5}, {"cpus": float("nan")}])
def test_a_worker_of_ray_asks_for_something(options):
    with pytest.raises(UserError, match=r"ray\.(cpus must be above 0|gpus must not be negative), got"):
        RayOptions(**options)
