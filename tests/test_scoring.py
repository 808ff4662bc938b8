"""Scoring a saved policy: nothing twice, nothing of another policy, at any strength, and only if it is applied."""

import json
import math
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace

import polars as pl
import pytest
import torch
from peft import LoraConfig, get_peft_model

import innerpo
import innerpo.run
from conftest import build_model, build_tokenizer, make_pairs, run_in
from innerpo.capability import capability_config, with_capability
from innerpo.cli.verbs import main
from innerpo.config.run import default_run, to_dict
from innerpo.config.yaml import as_yaml, config_of_folder, overlay
from innerpo.errors import UserError
from innerpo.evaluation import scoring_run
from innerpo.evaluation.applied import check_applied, check_tokenizer
from innerpo.evaluation.capability_file import read_capability
from innerpo.evaluation.facts import combine, read_scores
from innerpo.evaluation.outcomes import pair_outcomes
from innerpo.evaluation.study import read_study
from innerpo.model.adapters import load_adapter
from innerpo.model.base import Base
from innerpo.progress import joined, reporting, track
from source_helpers import write_jsonl


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy_folder):
    """A toy DPO run, not scored: (run folder, its config)."""
    folder = tmp_path_factory.mktemp("scoring")
    pairs = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in make_pairs(18)]
    rows = [pair | {"split": "test" if i % 3 == 0 else "train"} for i, pair in enumerate(pairs)]
    config = default_run("dpo")
    data = replace(config.data, dataset=str(write_jsonl(folder / "numbers.jsonl", rows)), cache_dir=folder / "cache")
    own = replace(config.eval, oos_dataset="embedded:longer", rnd_dataset="embedded:control", max_prompts=5, skip=True)
    model = replace(config.model, base_model=str(toy_folder), dtype="float32")
    training = replace(config.training, max_steps=4, lr=0.01)
    config = replace(config, model=model, data=data, eval=own, training=training, output_dir=folder / "out")
    innerpo.run.train(config)
    return config.run_dir, config


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run, and its config with changes to the eval section."""
    shutil.copytree(trained[0], tmp_path / "copy")

    def changed(**changes):
        config = config_of_folder(tmp_path / "copy")
        return replace(config, eval=replace(config.eval, **changes))

    return tmp_path / "copy", changed


@pytest.fixture
def passes(monkeypatch):
    """What a policy was run on, in order."""
    run, plain = [], scoring_run.score_items

    def counted(*args, **options):
        run.append(options["what"].split("/")[-1])
        return plain(*args, **options)

    monkeypatch.setattr(scoring_run, "score_items", counted)
    return run


SPLITS = ["numbers.jsonl (train)", "numbers.jsonl (test)", "embedded:longer (test)", "embedded:control (test)"]


def test_nothing_is_scored_twice(copied, passes):
    folder, changed = copied
    first = innerpo.run.evaluate(folder, changed())
    assert passes == SPLITS
    again = innerpo.run.evaluate(folder, changed())
    assert passes == SPLITS
    assert again.scores.responses.equals(first.scores.responses)
    more = innerpo.run.evaluate(folder, changed(strengths=(0.0, 0.5, 1.0)))
    assert passes == SPLITS * 2
    strengths = more.scores.responses.select("model", "strength").unique(maintain_order=True).rows()
    assert strengths == [("base", 0.0), ("dpo", 0.5), ("dpo", 1.0)]
    assert innerpo.run.evaluate(folder, changed()).scores.responses.equals(more.scores.responses)  # none is forgotten
    innerpo.run.evaluate(folder, changed(oos_dataset="embedded:shorter"))
    assert passes == [*SPLITS * 2, "embedded:shorter (test)"]  # the other three are known


def test_some_sets_at_every_strength_and_the_others_at_1(copied, passes):
    folder, changed = copied
    some = innerpo.run.evaluate(folder, changed(strengths=(0.5, 1.0), strength_sets=("test", "oos")))
    assert passes == [*SPLITS[1:3], *SPLITS]
    own = pl.col("model") == "dpo"
    found = some.scores.responses.filter(own).select("set", "strength").unique().rows()
    assert set(found) == {*((s, 0.5) for s in ("test", "oos")), *((s, 1.0) for s in ("train", "test", "oos", "rnd"))}
    every = innerpo.run.evaluate(folder, changed(strengths=(0.5, 1.0)))
    assert passes == [*SPLITS[1:3], *SPLITS, SPLITS[0], SPLITS[3]]  # only what was lacking
    rows = [set(run.scores.responses.drop("inner").rows()) for run in (some, every)]  # inner is NaN, unlike itself
    assert rows[0] < rows[1]
    with pytest.raises(UserError, match=r"eval\.strength_sets: 'tset' is not scored; did you mean 'test'"):
        innerpo.run.evaluate(folder, changed(strength_sets=("tset",)))


def test_scoring_goes_on_where_it_was_interrupted(copied, passes, monkeypatch):
    folder, changed = copied
    plain = scoring_run.score_items

    def interrupted(*args, **options):
        if len(passes) == 2:
            raise KeyboardInterrupt
        return plain(*args, **options)

    monkeypatch.setattr(scoring_run, "score_items", interrupted)
    with pytest.raises(KeyboardInterrupt):
        innerpo.run.evaluate(folder, changed())
    monkeypatch.setattr(scoring_run, "score_items", plain)
    assert not (folder / "scores.parquet").exists()
    innerpo.run.evaluate(folder, changed())
    assert passes == SPLITS


def test_a_changed_adapter_is_scored_anew(copied, passes):
    folder, changed = copied
    first = innerpo.run.evaluate(folder, changed(strengths=(0.5, 1.0))).scores.responses
    before = len(passes)
    base = Base(build_model(), build_tokenizer(), "toy", "toy")
    policy = load_adapter(base, folder)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                p.mul_(2.0)
    policy.save_pretrained(folder)
    second = innerpo.run.evaluate(folder, changed()).scores.responses
    assert len(passes) == before + 8
    one = (pl.col("model") == "dpo", pl.col("strength") == 1.0)
    assert (first.filter(*one)["logp"] - second.filter(*one)["logp"]).abs().max() > 1e-3
    half = (pl.col("model") == "dpo", pl.col("strength") == 0.5)
    assert (first.filter(*half)["logp"] - second.filter(*half)["logp"]).abs().max() > 1e-3


def test_scores_whose_parts_are_gone_are_not_lost(copied, passes):
    """The folder of parts may be deleted, and another version of torch finds none in it."""
    folder, changed = copied
    innerpo.run.evaluate(folder, changed(strengths=(0.25, 1.0), strength_sets=("oos",)))
    shutil.rmtree(folder / "scored")
    passes.clear()
    rows = innerpo.run.evaluate(folder, changed(strengths=(0.5,), strength_sets=("test",))).scores.responses
    found = rows.filter(pl.col("model") == "dpo").select("strength", "set").unique().sort("strength", "set").rows()
    assert found == [(0.25, "oos"), (0.5, "test"), *((1.0, s) for s in ("oos", "rnd", "test", "train"))]
    assert passes == [SPLITS[2], SPLITS[1], *SPLITS]


def test_sets_at_other_strengths_that_a_run_names_do_not_bind_another_suite(copied):
    """Its own config names sets that other sets need not hold; what is named now must be there."""
    folder, changed = copied
    own = changed(strengths=(0.5, 1.0), strength_sets=("test", "oos"))
    (folder / "config.yaml").write_text(as_yaml(to_dict(own)))
    other = replace(own, eval=replace(own.eval, sets=("test", "rnd")))
    rows = innerpo.run.evaluate(folder, other).scores.responses.filter(pl.col("model") == "dpo")
    assert set(rows.select("set", "strength").rows()) == {("test", 0.5), ("test", 1.0), ("rnd", 1.0)}
    none = replace(own, eval=replace(own.eval, sets=("train", "rnd")))
    rows = innerpo.run.evaluate(folder, none).scores.responses.filter(pl.col("model") == "dpo")
    assert set(rows.select("set", "strength").rows()) == {(s, x) for s in ("train", "rnd") for x in (0.5, 1.0)}
    with pytest.raises(UserError, match=r"eval\.strength_sets: 'train' is not scored"):
        innerpo.run.evaluate(folder, replace(other, eval=replace(other.eval, strength_sets=("train",))))


def test_a_torn_part_is_scored_anew(copied, passes):
    folder, changed = copied
    first = innerpo.run.evaluate(folder, changed())
    part = sorted((folder / "scored").rglob("*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:100])
    again = innerpo.run.evaluate(folder, changed())
    assert len(passes) == 4 + 1
    assert again.scores.responses.equals(first.scores.responses)


def test_strengths_are_what_they_say(copied):
    """At 0 the base; between, the log-probability of a response changes from the base's to the policy's."""
    folder, changed = copied
    rows = innerpo.run.evaluate(folder, changed(strengths=(1e-6, 0.5, 1.0))).scores.responses
    by = {s: rows.filter(pl.col("strength") == s) for s in (0.0, 1e-6, 0.5, 1.0)}
    assert (by[1e-6]["logp"] - by[0.0]["logp"]).abs().max() < 1e-3
    drift = [by[s]["abs_log_ratio"].sum() for s in (0.0, 1e-6, 0.5, 1.0)]
    assert drift[0] == 0.0
    assert sorted(drift) == drift
    assert drift[2] > 10 * drift[1]
    assert rows["reference"].n_unique() == 1


def test_the_capability_of_a_target_is_measured_once(copied, tmp_path, monkeypatch):
    """The accuracy on its test pairs of a run that was trained on the target itself; any later run finds it."""
    folder, changed = copied
    config = replace(changed(capability="dpo", sets=("oos",)), output_dir=tmp_path / "out")
    assert read_capability(folder) == {}
    run = with_capability(innerpo.run.evaluate(folder, config))
    found = read_capability(run.folder)
    tuned = tmp_path / "out" / "capability" / run_in(tmp_path / "out" / "capability", "dpo_embedded-longer_seed1").name
    rows = pair_outcomes(read_scores(tuned), "mean_logp").filter(pl.col("model") == "dpo")
    assert found == {"oos": rows["outcome"].mean()}
    assert set(rows["set"]) == {"test"}
    monkeypatch.setattr("innerpo.run.train_policy", None)  # nothing is trained again
    monkeypatch.setattr("innerpo.run.prepare_items", None)
    other = replace(config, training=replace(config.training, seed=7))
    assert read_capability(with_capability(innerpo.run.evaluate(folder, other)).folder) == found


def test_training_from_python_measures_the_capability_too(trained, tmp_path):
    _, config = trained
    own = replace(config.eval, skip=False, capability="dpo", sets=("oos",), max_prompts=2)
    config = replace(config, eval=own, training=replace(config.training, max_steps=1), output_dir=tmp_path)
    run = innerpo.train(method=config)
    assert 0.0 <= read_capability(run.folder)["oos"] <= 1.0


def test_a_set_of_which_no_pair_is_left_is_noted_and_not_a_zero(copied):
    """Cut to one token, the responses of every pair of embedded:longer are the same."""
    folder, changed = copied
    config = changed(sets=("oos", "rnd"))
    run = innerpo.run.evaluate(folder, replace(config, data=replace(config.data, max_response_tokens=1)))
    outcomes = pair_outcomes(run.scores, "mean_logp")
    assert set(outcomes["set"]) == {"rnd"}
    note = "oos: embedded:longer not scored: after the cut the responses of all its 5 pairs are the same"
    assert run.scores.sets["note"].to_list() == [note, ""]
    assert [s.note for s in run.sets] == [note, ""]
    assert note in (run.folder / "headline.md").read_text()
    assert run.faults == (note,)  # it was asked for


def test_a_capability_that_cannot_be_had_is_unknown(copied, tmp_path, monkeypatch):
    folder, changed = copied

    def refused(*_):
        raise UserError("no train split")

    monkeypatch.setattr("innerpo.capability.train", refused)
    config = replace(changed(capability="dpo", sets=("oos",)), output_dir=tmp_path / "out")
    found = with_capability(innerpo.run.evaluate(folder, config)).folder
    assert math.isnan(read_capability(found)["oos"])
    assert json.loads((found / "capability.json").read_text())["oos"]["note"] == "no train split"
    (found / "capability.json").write_text("[1")
    with pytest.raises(UserError, match=r"cannot read .*capability\.json"):
        read_capability(found)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a real model, beside other tests on two cores
def test_a_curve_costs_its_forward_passes(tmp_path, capsys):
    """Six points on three sets take at most 7 times the time of one scoring pass, with one bar."""
    run = innerpo.train(
        method="dpo",
        data="embedded:longer",
        output_dir=tmp_path,
        **{"training.max_steps": 1, "eval.max_prompts": 60, "eval.sets": ("test", "oos", "rnd"), "eval.skip": True},
    )
    base, seconds, bars = innerpo.load_base(), [], []

    class Bars:
        @contextmanager
        def task(self, what, total):
            bars.append(what)
            yield lambda done, note="": None

    innerpo.evaluate(base, run.folder, **{"eval.strengths": (0.1,)})  # the reference is known from here on
    for strengths in ((1.0,), (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)):
        shutil.rmtree(run.folder / "scored")
        bars.clear()
        started = time.perf_counter()
        with reporting(Bars()):
            innerpo.evaluate(base, run.folder, **{"eval.strengths": strengths})
        seconds.append(time.perf_counter() - started)
        assert bars == ["scoring dpo"]
    with capsys.disabled():
        print(f"\none strength {seconds[0]:.1f} s, six {seconds[1]:.1f} s: {seconds[1] / seconds[0]:.2f} times")
    assert seconds[1] <= 7 * seconds[0]


def test_a_suite_beside_the_headline_is_one_study(copied, tmp_path):
    """The table has the suite's sets as columns; what lies in eval-* is read with the run."""
    folder, changed = copied
    path = tmp_path / "mine.toml"
    path.write_text('[[sets]]\nname = "shorter"\ndataset = "embedded:shorter"\n')
    innerpo.run.evaluate(folder, changed())
    run = innerpo.run.evaluate(folder, changed(suite=str(path)))
    assert run.tables["mean_logp"].columns == ["train", "test", "rnd", "shorter"]
    assert (run.folder / "headline.md").read_text().splitlines()[2] == "| method | train | test | rnd | shorter |"
    assert (run.folder / "overlap.jsonl").read_text() == ""
    study = read_study(folder)
    scored = {"embedded:control", "embedded:longer", "embedded:shorter", changed().data.dataset}
    assert set(study.responses["dataset"]) == scored
    assert read_study(run.folder).responses["dataset"].n_unique() == 3


def test_rows_of_two_bases_are_not_put_together(copied):
    folder, changed = copied
    scores = innerpo.run.evaluate(folder, changed()).scores
    other = replace(scores, responses=scores.responses.with_columns(reference=pl.lit("another")))
    with pytest.raises(UserError, match="the scores are of 2 base models"):
        combine([scores, other])


def adapter(folder, init=True):
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=init)
    get_peft_model(build_model(), config).save_pretrained(folder)
    base = Base(build_model(), build_tokenizer(), "toy", "toy")
    return base, load_adapter(base, folder)


def test_an_adapter_that_is_not_applied_is_refused(tmp_path, items, caplog):
    caplog.set_level("INFO", "innerpo")
    base, policy = adapter(tmp_path / "untrained")
    check_applied(policy, base, items, "concatenated", "mine")
    assert "mine: the adapter's update is zero, so its policy is its base" in caplog.text
    check_applied(base.model, base, items, "concatenated", "probe")
    assert "probe trains nothing" in caplog.text

    base, policy = adapter(tmp_path / "trained", init=False)
    check_applied(policy, base, items, "concatenated", "mine")
    policy.base_model.disable_adapter_layers()
    with pytest.raises(UserError, match="mine is not applied: on 4 prompts its log-probabilities equal the base's"):
        check_applied(policy, base, items, "concatenated", "mine")


def test_a_foreign_tokenizer_is_refused(tmp_path, toy):
    texts = [p.prompt + p.chosen for p in make_pairs(4)]
    check_tokenizer(tmp_path, toy, texts)  # none there
    build_tokenizer().save_pretrained(tmp_path)
    check_tokenizer(tmp_path, toy, texts)
    path = tmp_path / "tokenizer.json"
    other = json.loads(path.read_text())
    vocab = other["model"]["vocab"]
    words = sorted(vocab, key=vocab.get)
    vocab[words[40]], vocab[words[-1]] = vocab[words[-1]], vocab[words[40]]
    swapped = dict.fromkeys(words[9:], 0)
    other["model"]["vocab"] = vocab | {w: vocab[v] for w, v in zip(swapped, reversed(swapped), strict=True)}
    path.write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"is not that of the base model 'toy': .* the first to differ is number \d+"):
        check_tokenizer(tmp_path, toy, texts)
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        check_tokenizer(tmp_path, toy, texts)


def test_several_runs_and_a_missing_target(copied, tmp_path, capsys):
    """One clear line each, exit code 2, and the others are scored."""
    folder, _ = copied
    shutil.copytree(folder, tmp_path / "second")
    (tmp_path / "second" / "adapter_model.safetensors").write_bytes(b"torn")
    words = [
        str(tmp_path / "gone"),
        str(tmp_path / "second"),
        str(folder),
        "--eval.oos_dataset=nowhere.jsonl",
        "--eval.sets",
        "oos",
        "test",
    ]
    assert main(["eval", *words]) == 2
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "gone not scored: " in errors[0]
    assert "second not scored: " in errors[1]
    assert "oos: nowhere.jsonl not scored: " in errors[2]
    (written,) = folder.glob("eval-*")
    scores = read_scores(written)
    assert set(scores.responses["set"]) == {"test"}
    assert scores.sets["note"].to_list()[1].startswith("oos: nowhere.jsonl not scored")
    assert not list((tmp_path / "second").glob("eval-*"))


def test_many_tasks_are_one_bar():
    seen = []

    class Bars:
        @contextmanager
        def task(self, what, total):
            seen.append((what, total))
            yield lambda done, note="": seen.append((done, note))

    with reporting(Bars()), joined("scoring", 30) as part:
        with part(10):
            list(track(range(2), "test"))
        with part(20), joined("inner", 4) as inner:
            with inner(2):
                list(track(range(1), "oos"))
            with inner(2):
                pass
    assert seen == [
        ("scoring", 30),
        (5, "test"),
        (10, "test"),
        (10, ""),
        (20, "oos"),
        (20, "inner"),
        (30, "inner"),
        (30, ""),
    ]


def test_the_capability_of_a_target_is_that_of_plain_labels():
    """Of a control's run too, whose own labels are swapped; nor is the base steered for it."""
    config = overlay(default_run("flipped-labels"), {"eval": {"capability": "dpo", "strength_sets": ["oos"]}}, "test")
    assert config.data.shuffled_labels == 1.0
    found = capability_config(config, "arc_hard")
    assert (found.method.name, found.data.dataset, found.data.shuffled_labels) == ("dpo", "arc_hard", 0.0)
    assert (found.eval.sets, found.eval.strengths, found.eval.strength_sets) == (("test",), (1.0,), ())
