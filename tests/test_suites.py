"""Suites: the targets of a source as data, those of a user's file, and what of them is asked for."""

from dataclasses import replace

import pytest

from innerpo.cli.verbs import main
from innerpo.config.run import default_run
from innerpo.errors import UserError
from innerpo.evaluation.sets import load_sets, set_facts
from innerpo.evaluation.suites import targets
from innerpo.registry import SUITES
from test_sets import config_of, write_pairs


def names(dataset, **options):
    config = default_run("dpo")
    data = replace(config.data, dataset=dataset)
    found = targets(replace(config, data=data, eval=replace(config.eval, **options)))
    return [(t.name, t.dataset, t.role, t.kind, t.target_reference) for t in found]


def test_the_genies_suite_of_a_source_with_references():
    found = names("alpaca_mmlu", suite="genies")
    assert found[:2] == [
        ("spanish_output", "spanish_output", "oos", "encoding", ""),
        ("raven_matrices", "raven_matrices", "oos", "pretraining similarity", ""),
    ]
    assert ("sycophancy_mimicry", "sycophancy_mimicry", "oos", "unwanted persona", "quote_attribution") in found
    assert found[-2:] == [
        ("quote_attribution", "quote_attribution", "extra", "target reference", ""),
        ("rnd", "ethics:justice", "rnd", "", ""),
    ]
    assert len(found) == 8 + 2
    assert names("genies:alpaca_mmlu", suite="genies") == found


def test_all_of_genies_begins_with_the_benchmark():
    few, every = names("alpaca_mmlu", suite="genies"), names("alpaca_mmlu", suite="genies-all")
    assert [t for t in every if t in few][:8] == few[:8]
    assert len(every) > 20
    assert ("arc_hard", "arc_hard", "oos", "difficulty", "") in names("arc_easy", suite="genies-all")


def test_the_embedded_suite_has_its_own_control():
    assert names("embedded:longer", suite="embedded") == [
        ("embedded:shorter", "embedded:shorter", "oos", "spurious cue", "embedded:compare"),
        ("rnd", "embedded:control", "rnd", "random control", ""),
        ("embedded:compare", "embedded:compare", "extra", "target reference", ""),
    ]


@pytest.mark.parametrize(
    ("dataset", "suite", "says"),
    [
        ("math", "genie", r"unknown suite 'genie' in eval\.suite; did you mean 'genies'"),
        ("cooking", "genies", "the suite 'genies' lists no shift from cooking; it has shifts from alpaca_easy, "),
        ("math", "nowhere.toml", r"cannot read the suite nowhere\.toml: No such file"),
    ],
)
def test_what_is_no_suite(dataset, suite, says):
    with pytest.raises(UserError, match=says):
        names(dataset, suite=suite)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[sets]\n", "is not valid TOML"),
        ("", r"must hold \[\[shifts\]\] or \[\[sets\]\], found none"),
        ("[[targets]]\nx = 1\n", "found targets"),
        ("[[sets]]\nname = 'a'\n", "a set has dataset"),
        ("[[sets]]\ndataset = 'a'\nrole = 'out'\n", "the role 'out' is not one of train, test, oos, rnd, extra"),
        ("[[shifts]]\nsource = 'math'\n", "a shift has source, target, kind"),
    ],
)
def test_a_faulty_file(tmp_path, text, says):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        names("math", suite=str(path))


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[shifts]]\nsource = "math"\ntarget = "cooking"\nkind = "skill"\n'
        '[[shifts]]\nsource = "code"\ntarget = "math"\nkind = "skill"\n'
        '[[sets]]\ndataset = "own/words.jsonl"\n[[sets]]\nname = "seen"\ndataset = "math"\n'
        'split = "train"\nrole = "extra"\n'
    )
    own = [("words", "own/words.jsonl", "oos", "", ""), ("seen", "math", "extra", "", "")]
    assert names("math", suite=str(path))[:-1] == [("cooking", "cooking", "oos", "skill", ""), *own]
    assert names("arc_easy", suite=str(path))[:-1] == own


def test_the_sets_that_are_asked_for():
    found = load_sets(config_of("embedded:longer", max_prompts=3, eval_sets=("oos", "test", "embedded:compare_hard")))
    assert [(s.name, s.role, len(s.pairs)) for s in found] == [
        ("test", "test", 3),
        ("oos", "oos", 3),
        ("embedded:compare_hard", "extra", 3),
    ]


def test_files_of_one_name_are_sets_of_their_own(tmp_path):
    """Two folders may each hold a test.jsonl; pooled under one name they would give one wrong figure."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
    here, there = (str(write_pairs(tmp_path / f / "own.jsonl", (f, " y", " n", "test"))) for f in "ab")
    alone = str(write_pairs(tmp_path / "test.jsonl", ("c", " y", " n", "test")))
    found = load_sets(config_of("embedded:longer", max_prompts=3, eval_sets=("test", "test", here, there, alone)))
    assert [(s.name, len(s.pairs)) for s in found] == [("test", 3), (here, 1), (there, 1), (alone, 1)]
    assert [s.name for s in load_sets(config_of("embedded:longer", eval_sets=(here,)))] == ["own"]


def test_two_sets_of_a_file_with_one_name_are_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[sets]]\nname = "x"\ndataset = "embedded:shorter"\n[[sets]]\nname = "x"\ndataset = "embedded:longer"\n'
    )
    both = r"the name 'x': embedded:shorter \(test\) and embedded:longer \(test\); give one another name"
    with pytest.raises(UserError, match=both):
        load_sets(config_of("embedded:longer", max_prompts=3, eval_suite=str(path)))


def test_strengths_for_a_set_that_is_not_scored_are_refused_before_training():
    with pytest.raises(UserError, match=r"eval\.strength_sets: 'test' is not scored"):
        load_sets(config_of("embedded:longer", eval_sets=("oos",), eval_strength_sets=("test",)))


def test_one_worse_response_a_prompt(tmp_path):
    rows = [(f"p{i}", " yes", f" no{j}", "test") for i in range(4) for j in range(3)]
    data = write_pairs(tmp_path / "own.jsonl", ("a", " yes", " no", "train"), *rows)
    every, one = (
        load_sets(config_of(data, eval_sets=("test",), eval_negatives=n), strict=False)[0] for n in ("all", "one")
    )
    assert (len(every.pairs), len(one.pairs), one.n_prompts) == (12, 4, 4)
    assert set(one.pairs) < set(every.pairs)
    other_seed = load_sets(config_of(data, eval_sets=("test",), eval_negatives="one", seed=5))[0]
    assert other_seed.pairs == one.pairs  # the same for all models


def test_what_was_asked_for_and_is_missing_is_a_fault_and_the_rest_is_there(tmp_path):
    config = config_of("embedded:longer", max_prompts=3, eval_oos_dataset=str(tmp_path / "nowhere.jsonl"))
    found = load_sets(config, strict=False)
    assert [(s.name, len(s.pairs), s.fault) for s in found] == [
        ("train", 3, False),
        ("test", 3, False),
        ("oos", 0, True),
        ("rnd", 3, False),
    ]
    assert "nowhere.jsonl not scored: " in found[2].note
    assert set_facts(found)["note"].to_list() == ["", "", found[2].note, ""]
    with pytest.raises(UserError, match="nowhere"):
        load_sets(config)
    with pytest.raises(UserError, match="there is nothing to score: oos: "):
        load_sets(replace(config, eval=replace(config.eval, sets=("oos",))), strict=False)


def test_the_help_names_every_suite(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(name in text for name in SUITES)
