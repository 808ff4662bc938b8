"""Evaluation sets: which pairs each one holds, what kind of shift it is, and what is noted about it."""

from dataclasses import replace

import pytest

from innerpo.config.run import default_run
from innerpo.data.training_pairs import training_pairs
from innerpo.errors import UserError
from innerpo.evaluation.sets import load_sets, set_facts
from innerpo.evaluation.tables import overlap_notes
from source_helpers import write_jsonl


def config_of(dataset, max_prompts=250, **changes):
    """A config that trains on a data set; other changes are of its data section, eval_... of its eval section."""
    own = {k.removeprefix("eval_"): v for k, v in changes.items() if k.startswith("eval_")}
    data = {k: v for k, v in changes.items() if not k.startswith("eval_")}
    config = default_run("dpo")
    own |= {"max_prompts": max_prompts}
    return replace(config, data=replace(config.data, dataset=str(dataset), **data), eval=replace(config.eval, **own))


def write_pairs(path, *rows):
    """Write (prompt, chosen, rejected, split) as a jsonl file."""
    return write_jsonl(path, [dict(zip(("prompt", "chosen", "rejected", "split"), row, strict=True)) for row in rows])


def test_the_headline_sets_of_an_embedded_source():
    found = load_sets(config_of("embedded:longer", max_prompts=5))
    assert [(s.name, s.dataset, s.split, s.role, s.kind, len(s.pairs)) for s in found] == [
        ("train", "embedded:longer", "train", "train", "", 5),
        ("test", "embedded:longer", "test", "test", "", 5),
        ("oos", "embedded:shorter", "test", "oos", "spurious cue", 5),
        ("rnd", "embedded:control", "test", "rnd", "random control", 5),
    ]
    assert found[1].source == "embedded:longer (test), 5 pairs of 5 prompts"


def test_a_named_target_has_no_kind_where_the_shift_is_not_listed():
    oos = load_sets(config_of("embedded:longer", max_prompts=5, eval_oos_dataset="embedded:compare_hard"))[2]
    assert (oos.dataset, oos.kind) == ("embedded:compare_hard", "")


def test_what_cannot_be_loaded_is_noted_or_refused(tmp_path):
    data = write_pairs(tmp_path / "own.jsonl", ("a", " yes", " no", "train"), ("b", " yes", " no", "test"))
    config = config_of(data, ethics_dir=tmp_path / "nowhere")
    oos, rnd = load_sets(config)[2:]
    assert (oos.pairs, oos.note) == ((), f"oos: no shift is listed for {data}; name one in eval.oos_dataset")
    assert rnd.pairs == ()
    assert rnd.note.startswith("rnd: ethics:justice not scored: ")
    with pytest.raises(UserError, match="ethics"):
        load_sets(replace(config, eval=replace(config.eval, rnd_dataset="ethics:justice")))


def test_near_duplicates_of_training_prompts_are_counted_and_listed(tmp_path):
    long = "The quick brown fox jumps over the lazy dog near the river bank"
    data = write_pairs(
        tmp_path / "own.jsonl",
        (f"{long} today.", " yes", " no", "train"),
        ("Something else entirely, about ships.", " yes", " no", "train"),
        (f"{long}, today!", " yes", " no", "test"),
        ("A question of another kind about trains.", " yes", " no", "test"),
    )
    train, test, _, _ = load_sets(config_of(data, eval_rnd_dataset="embedded:control"))
    assert (train.n_near, test.n_near, test.n_seen) == (-1, 1, 0)
    assert [(found.train, found.target) for found in test.near] == [(0, 0)]
    assert test.near[0].similarity == 1.0
    assert set_facts([train, test])["near"].to_list() == [-1, 1]


def test_the_train_set_holds_prompts_that_were_trained_on():
    config = config_of("embedded:longer", max_prompts=6, max_train_prompts=10)
    trained = {p.id for p in training_pairs(config)}
    sets = [load_sets(config)[0], load_sets(config, training_pairs(config))[0]]
    assert sets[0] == sets[1]
    assert len(sets[0].pairs) == 6
    assert {p.id for p in sets[0].pairs} <= trained


def test_every_training_prompt_counts_as_seen_not_only_the_sampled_ones(tmp_path):
    """20 of the 30 test prompts are training prompts; the train set is a sample of 5 of the 40."""
    rows = [(f"question {i}", " yes", " no", "train") for i in range(40)]
    rows += [(f"question {i}", " yes", " no", "test") for i in range(20, 50)]
    data = write_pairs(tmp_path / "own.jsonl", *rows)
    config = config_of(data, max_prompts=0, eval_rnd_dataset="embedded:control")
    sets = load_sets(config)
    assert [s.n_seen for s in sets] == [40, 20, 0, 0]
    assert overlap_notes(sets) == ["note: 20 of 30 prompts of test are training prompts too"]
    few = load_sets(config_of(data, max_prompts=5, eval_rnd_dataset="embedded:control"), training_pairs(config))
    test = few[1]
    assert test.n_seen == sum(int(p.prompt.split()[1]) < 40 for p in test.pairs) > 0


def test_a_row_that_stands_twice_in_a_data_set_is_scored_once(tmp_path, caplog):
    """Same prompt and responses; with another rejected response or with labels swapped it is another pair."""
    data = write_pairs(
        tmp_path / "own.jsonl",
        ("a", " yes", " no", "train"),
        ("a", " yes", " no", "train"),
        ("b", " yes", " no", "test"),
        ("c", " yes", " no", "test"),
        ("b", " yes", " never", "test"),
        ("b", " yes", " no", "test"),
        ("b", " no", " yes", "test"),
    )
    with caplog.at_level("INFO"):
        train, test, _, _ = load_sets(config_of(data, eval_rnd_dataset="embedded:control"))
    assert train.source == f"{data} (train), 1 pairs of 1 prompts"
    assert [(p.prompt, p.chosen, p.rejected) for p in test.pairs] == [
        ("b", " yes", " no"),
        ("c", " yes", " no"),
        ("b", " yes", " never"),
        ("b", " no", " yes"),
    ]
    assert "left out 1 rows, the first: " in caplog.text
    assert "repeats " in caplog.text


def test_runs_of_other_data_seeds_are_scored_on_the_same_prompts():
    """data.seed chooses what is trained on; if it also chose what is scored, two such runs could not be paired."""
    trained = [load_sets(config_of("embedded:longer", max_prompts=7, seed=s, max_train_prompts=9)) for s in (0, 1)]
    assert trained[0][0].pairs != trained[1][0].pairs
    assert [s.pairs for s in trained[0][1:]] == [s.pairs for s in trained[1][1:]]
