"""Every name of the table of methods: trains, improves what it trains, saves, reloads and scores; names and aliases."""

import json
from dataclasses import replace

import pytest
import torch

import innerpo.config.run
from conftest import build_model, build_tokenizer, facts_of
from innerpo.cli.verbs import main
from innerpo.config.method import LEARNED, MethodConfig, method_names
from innerpo.config.run import default_run
from innerpo.config.yaml import read_run_config as load_config
from innerpo.errors import UserError
from innerpo.model.base import Base
from innerpo.registry import METHODS, TRANSFORMS
from innerpo.run import evaluate, train
from innerpo.training.directions_file import load_directions
from innerpo.training.prepare import prepare_items

STATELESS = {"dpo", "ipo", "simpo", "sft", "projgrad", "projbp"}
STATELESS |= {"dpo-norm", "rdpo", "lddpo", "dpop", "cdpo", "robust-dpo", "hinge", "apo-zero", "apo-down"}
STATELESS |= {"flipped-labels", "shuffled-prompts"}
STATELESS |= {n for n in METHODS if n.startswith(("mismatch", "anchor"))}  # anchors read states of texts, not of pairs


def toy_run(name, toy_folder, tmp_path, **method):
    config = default_run(name)
    return replace(
        config,
        method=replace(config.method, layers="1,-1", **method),
        model=replace(config.model, base_model=str(toy_folder), lora_r=4),
        data=replace(
            config.data, dataset="embedded:longer", max_train_prompts=16, batch_size=8, cache_dir=tmp_path / "cache"
        ),
        training=replace(config.training, lr=5e-3, max_steps=20, save_steps=0, log_steps=1, grad_share_steps=0),
        eval=replace(config.eval, max_prompts=4),
        output_dir=tmp_path / "outputs",
    )


def same_scores(a, b):
    return a == pytest.approx(b, abs=1e-4)


IN_THE_FAST_TESTS = ("innerpo", "dpo", "projbp", "prefvec")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in IN_THE_FAST_TESTS else pytest.mark.slow) for n in METHODS if n != "probe"],
)
def test_every_method_trains_saves_reloads_and_scores(name, toy_folder, tmp_path):
    config = toy_run(name, toy_folder, tmp_path)
    result = train(config)
    label = name if name in STATELESS else f"{name}-none"
    assert result.folder.name.startswith(f"{label}_embedded-longer_seed1+")
    steps = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in steps if "loss" in line]
    assert len(losses) == 20
    assert sum(losses[-3:]) / 3 < 0.97 * losses[0], losses  # the first is at the reference, before any step
    assert {k.removeprefix("loss/") for k in steps[0] if k.startswith("loss/")} == set(config.method.term_weights())
    assert (result.folder / "directions.safetensors").is_file() == (name not in STATELESS)
    assert set(facts_of(result, column="model")) == {"base", label}
    assert not same_scores(facts_of(result, "base"), facts_of(result, label))
    again = evaluate(result.folder, load_config(result.folder))
    assert same_scores(facts_of(again), facts_of(result))


def test_probe_trains_nothing_and_scores_along_its_direction(toy_folder, tmp_path, capsys):
    config = toy_run("probe", toy_folder, tmp_path)
    result = train(config)
    assert result.folder.name.startswith("probe-none_embedded-longer_seed1+")
    files = {p.name for p in result.folder.iterdir()}
    assert "directions.safetensors" in files
    assert not {"adapter_config.json", "adapter_model.safetensors", "model.safetensors", "metrics.jsonl"} & files
    assert json.loads((result.folder / "run.json").read_text())["steps"] == 0
    assert "Preference directions of the frozen" in (result.folder / "README.md").read_text()
    for column in ("set", "prompt", "logp", "inner", "abs_log_ratio"):
        assert facts_of(result, "probe-none", column) == facts_of(result, "base", column)
    assert torch.isfinite(torch.tensor(facts_of(result, "probe-none", "inner"))).all()
    assert set(result.tables["inner"].cells) == {"base", "probe-none"}
    # its directions are those of innerpo, and `innerpo eval` works on the folder
    innerpo_run = train(
        replace(toy_run("innerpo", toy_folder, tmp_path), method=replace(default_run("innerpo").method, layers="1,-1"))
    )
    a, b = (load_directions(r.folder).directions for r in (result, innerpo_run))
    assert torch.equal(a.w, b.w)
    assert main(["eval", str(result.folder)]) == 0
    assert "probe-none" in capsys.readouterr().out
    with pytest.raises(UserError, match="already holds a run"):
        train(config)


def test_remove_and_lda_reach_the_run(toy_folder, tmp_path):
    """The options change the saved direction, through the top code."""
    found = {}
    for remove in ((), ("length",), ("length", "logprob")):
        for direction in ("shared", "lda"):
            config = toy_run("probe", toy_folder, tmp_path, direction=direction, remove=remove)
            config = replace(
                config, output_dir=tmp_path / f"{direction}{len(remove)}", eval=replace(config.eval, skip=True)
            )
            found[direction, remove] = load_directions(train(config).folder).directions.w
    values = list(found.values())
    assert not any(torch.allclose(a, b, atol=1e-4) for i, a in enumerate(values) for b in values[:i])


def test_shuffled_labels_leave_shared_directions_at_chance(toy_folder, tmp_path):
    """Against a source whose preference is plain to see (the longer response), the same with labels shuffled."""
    accuracy = {}
    for name in ("innerpo", "shuffled-labels"):
        config = toy_run(name, toy_folder, tmp_path)
        config = replace(
            config,
            method=replace(config.method, frozen=True, gamma=0.0),
            data=replace(config.data, max_train_prompts=160),
            eval=replace(config.eval, skip=True),
        )
        accuracy[name] = load_directions(train(config).folder).directions.accuracy
    assert (accuracy["innerpo"] > 0.85).all(), accuracy
    assert ((accuracy["shuffled-labels"] - 0.5).abs() < 0.15).all(), accuracy


# -- names -----------------------------------------------------------------------------------------------------------


def test_an_alias_is_the_method_with_a_transform(monkeypatch):
    assert default_run("innerpo-none") == default_run("innerpo")
    monkeypatch.setitem(TRANSFORMS, "my-own", lambda inputs, method: None)
    config = default_run("prefvec-my-own")
    assert (config.method.name, config.method.transform) == ("prefvec", "my-own")
    assert config.method_label == "prefvec-my-own"
    assert config == replace(default_run("prefvec"), method=replace(default_run("prefvec").method, transform="my-own"))
    assert {"random-direction-my-own", "probe-none", "innerpo-my-own"} <= set(method_names())
    assert default_run("shuffled-labels-my-own").data.shuffled_labels == 0.5


def test_no_method_has_the_name_of_another_with_a_transform():
    """A control whose name another method's label is could not be told from it in tables."""
    names = method_names()
    assert len(names) == len(set(names))


def test_methods_that_read_no_states_have_no_alias():
    assert {n for n in METHODS if f"{n}-none" not in method_names()} == STATELESS
    with pytest.raises(UserError, match="unknown method 'dpo-none'"):
        default_run("dpo-none")
    with pytest.raises(UserError, match="unknown method 'innerpoo'; did you mean 'innerpo'"):
        default_run("innerpoo")


def test_methods_with_notes_have_no_alias_with_a_transform_that_learns():
    """Their probe would have seen the pairs that it judges."""
    names = set(method_names())
    assert {"residual-svd", "reweight-none", "innerpo-ether"} <= names
    assert not {f"{name}-{t}" for name in ("residual", "reweight", "residual-permuted") for t in LEARNED} & names
    assert default_run("residual-ether").method.transform == "ether"  # a run of an older release is still read


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"output": "dpo_norm", "mismatch": 1.0}, "method.mismatch multiplies margins in nats by method.beta"),
        ({"output": "simpo", "ties": 1.0}, "method.ties multiplies margins in nats by method.beta"),
        ({"output": "residual", "transform": "ether"}, "method.transform=ether learns from the labels of all pairs"),
        ({"reweight": "probe", "transform": "hra"}, "would not be cross-fitted; use one of none, supr, svd, random"),
    ],
)
def test_what_is_not_trained_is_refused_before_anything_is_loaded(values, says, tmp_path):
    config = default_run("innerpo")
    config = replace(config, method=replace(config.method, name="mine", **values), output_dir=tmp_path / "out")
    with pytest.raises(UserError, match=says):
        train(config)
    with pytest.raises(UserError, match=says):
        prepare_items(config, Base(build_model(), build_tokenizer(), "toy", "toy"), [])
    assert list(tmp_path.iterdir()) == []


def test_options_of_texts_beside_the_pairs_have_an_effect():
    config = default_run("anchor-drift").method
    assert replace(config, layers="0.9", site="mlp", direction="random").unread == ["direction"]
    assert replace(default_run("anchor-kl").method, layers="0.9").unread == ["layers"]


def test_an_alias_on_the_command_line(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(innerpo.run, "train", lambda c: seen.append(c) or innerpo.run.Run(tmp_path, c))
    assert main(["train", "innerpo-none", "--training.seed=3"]) == 0
    assert main(["train", "innerpo", "--method.transform=none", "--training.seed=3"]) == 0
    assert main(["train", "shuffled-labels", "--method.remove", "length", "logprob"]) == 0
    assert seen[0] == seen[1]
    assert seen[0].run_name == "innerpo-none_math_seed3"
    assert seen[2].data.shuffled_labels == 0.5
    assert seen[2].method.remove == ("length", "logprob")


def test_weights_of_the_controls():
    def weights(name):
        return default_run(name).method.term_weights()

    assert weights("drift-only") == {"output": 1.0, "drift": 0.1}
    assert weights("random-direction") == weights("innerpo") == weights("shuffled-labels")
    assert weights("sft") == {"sft": 1.0}
    assert weights("reroute") == {"reroute": 1.0, "retain": 1.0}
    assert weights("projgrad") == weights("ipo") == {"output": 1.0}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"frozen": True, "alpha": 0.0, "gamma": 0.0}, "method.frozen scores along a preference direction"),
        ({"lda_ridge": 0.0}, "method.lda_ridge must be above 0, got 0.0"),
        ({"beta": 0.0}, "method.beta must be above 0 with output=dpo, got 0"),
        ({"output": "ipo", "beta": 0.0}, "method.beta must be above 0 with output=ipo, got 0"),
        ({"output": "simpo", "beta": -2.0}, "method.beta must be above 0 with output=simpo, got -2"),
    ],
)
def test_values_that_make_no_method_are_refused(values, says):
    with pytest.raises(UserError, match=says):
        MethodConfig(**values)
