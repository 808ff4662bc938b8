"""Training a toy model: equalities that must hold to the bit, accumulation, logs, what a run leaves behind."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from conftest import build_model, build_tokenizer, facts_of, make_pairs, run_in
from innerpo.config.method import MethodConfig
from innerpo.config.run import RunConfig, default_run
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError
from innerpo.model.base import Base
from innerpo.training.prepare import adapted, prepare_items
from innerpo.training.train import train_policy


def train(tmp_path, name="dpo", n_pairs=22, layout="one_row", **changes):
    """Train in-process; return (adapter weights, log lines, record)."""
    config = default_run(name)
    sections = {
        "method": {"layers": "1,3"},
        "model": {"lora_r": 4},
        "data": {"batch_size": 8},
        "training": {"lr": 5e-3, "save_steps": 0, "log_steps": 1, "grad_share_steps": 2},
    }
    for section, values in changes.items():
        sections[section] = sections.get(section, {}) | values
    config = replace(config, **{k: replace(getattr(config, k), **v) for k, v in sections.items()}, output_dir=tmp_path)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    base = Base(build_model().requires_grad_(False), build_tokenizer(), "toy", "toy")
    items = PairTokenizer(base.tokenizer, 64, 64).training_items(make_pairs(n_pairs))
    config = replace(config, data=replace(config.data, layout=layout, cache_dir=tmp_path / "cache"))
    prepared = prepare_items(config, base, items)
    with adapted(prepared, config) as (policy, method):
        record = train_policy(policy, method, prepared.pairs, config)
        weights = {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}
    log = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    return weights, log, record


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def far(a, b):
    return max(((a[n] - b[n]).norm() / b[n].norm()).item() for n in b)


def test_innerpo_with_zero_weights_is_dpo_to_the_bit(tmp_path):
    dpo, _, _ = train(tmp_path / "a", "dpo")
    innerpo, _, _ = train(tmp_path / "b", "innerpo", method={"alpha": 0.0, "gamma": 0.0})
    assert same_bits(dpo, innerpo)


def test_reading_states_does_not_disturb_dpo(tmp_path):
    """The same with states read at every step, by a term of negligible but non-zero weight."""
    dpo, _, _ = train(tmp_path / "a", "dpo")
    innerpo, _, _ = train(tmp_path / "b", "innerpo", method={"alpha": 1e-12, "gamma": 0.0})
    assert far(innerpo, dpo) < 1e-4
    other, _, _ = train(tmp_path / "c", "innerpo")
    assert far(other, dpo) > 1e-2  # the comparison above could fail


def test_options_of_states_are_said_to_be_without_effect_where_none_are_read(tmp_path, caplog):
    says = "without effect, dpo reads no hidden states"
    with caplog.at_level("WARNING"):
        train(tmp_path / "a", "innerpo", method={"pool": "last"}, training={"max_steps": 1})
        train(tmp_path / "b", "dpo", method={"layers": default_run("dpo").method.layers}, training={"max_steps": 1})
        train(tmp_path / "c", "anchor-drift", training={"max_steps": 1})
    assert says not in caplog.text
    with caplog.at_level("WARNING"):
        train(tmp_path / "d", "dpo", method={"pool": "last"}, training={"max_steps": 1})
    assert f"method.layers, method.pool: {says}" in caplog.text


def test_seed_decides(tmp_path):
    a, b = (train(tmp_path / k)[0] for k in "ab")
    other, _, _ = train(tmp_path / "c", training={"seed": 2})
    assert same_bits(a, b)
    assert not same_bits(a, other)


@pytest.mark.parametrize("method", ["dpo", "innerpo"])
@pytest.mark.parametrize("n_pairs", [24, 22])  # 22: the last step holds 6 pairs, as 4 + 2 when accumulated
def test_accumulation_is_exact(tmp_path, method, n_pairs):
    whole, _, a = train(tmp_path / "a", method, n_pairs)
    split, _, b = train(tmp_path / "b", method, n_pairs, data={"batch_size": 4}, training={"gradient_accumulation": 2})
    assert a["steps"] == b["steps"] == 3
    assert far(split, whole) < 1e-4


def test_layouts_train_the_same_adapter(tmp_path):
    a, b = (train(tmp_path / layout, "innerpo", layout=layout)[0] for layout in ("one_row", "concatenated"))
    assert far(a, b) < 1e-3


def test_checkpointing_trains_the_same_adapter(tmp_path):
    a, _, _ = train(tmp_path / "a", "innerpo")
    b, _, _ = train(tmp_path / "b", "innerpo", training={"gradient_checkpointing": True})
    assert far(b, a) < 1e-4


def test_drift_without_cached_tokens_runs_the_reference_itself(tmp_path):
    a, _, _ = train(tmp_path / "a", "innerpo")
    b, _, _ = train(tmp_path / "b", "innerpo", data={"token_cache_gb": 0.0})
    assert far(b, a) < 1e-4


def test_log_names_every_term_and_its_share_of_the_gradient(tmp_path):
    method = {"angle": 0.1, "separation": -0.1, "coherence": 0.5}
    _, log, record = train(tmp_path, "innerpo", method=method)
    terms = ("output", "inner", "drift", "angle", "separation", "coherence")
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    first = steps[0]
    assert first["loss/output"] == pytest.approx(0.6931, abs=1e-3)  # policy = reference
    assert first["loss/inner"] == pytest.approx(1.0, abs=1e-4)  # (tau - 0)^2
    assert first["loss/drift"] == pytest.approx(0.0, abs=1e-9)
    assert first["inner_margin"] == pytest.approx(0.0, abs=1e-5)
    weights = MethodConfig(**method).term_weights()
    assert first["loss"] == pytest.approx(sum(weights[t] * first[f"loss/{t}"] for t in terms), abs=1e-5)
    shares = [first[f"grad_share/{t}"] for t in terms]
    assert sum(shares) == pytest.approx(1.0)
    assert first["grad_share/drift"] < 1e-6  # flat at the reference
    assert first["grad_share/inner"] > 0.01
    assert "grad_share/inner" not in steps[1]  # every second step
    assert record["steps"] == 3


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        # the LM head alone has an adapter: states, and the terms on them, stay what they are
        ("innerpo", {"model": {"target_modules": "lm_head"}}, "nothing that is trained moves the loss term 'inner'"),
        # with no other term there is no gradient at all
        (
            "innerpo",
            {"model": {"target_modules": "lm_head"}, "method": {"output": "none"}},
            "nothing that is trained moves the loss term 'inner'",
        ),
        # states of companions count as those of the pairs
        (
            "anchor-drift",
            {"model": {"adapt_layers": "3"}, "method": {"layers": "1"}},
            r"method\.layers reads blocks 1, and model\.adapt_layers adapts none up to there \(the first is 3\)",
        ),
    ],
    ids=["lm_head", "lm_head without output", "anchors before the adapter"],
)
def test_a_term_that_nothing_trained_moves_is_refused(tmp_path, method, options, says):
    with pytest.raises(UserError, match=says):
        train(tmp_path, method, **options)


@pytest.mark.parametrize("name", ["dpo", "innerpo"])
def test_training_improves_its_own_objective(tmp_path, name):
    _, log, _ = train(tmp_path, name, training={"epochs": 8.0})
    steps = [line for line in log if "loss" in line]
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert steps[-1]["rewards/accuracies"] > 0.9
    if name == "innerpo":
        assert steps[-1]["inner_margin"] > 0.3


def test_full_fine_tuning(tmp_path):
    weights, log, _ = train(tmp_path, "innerpo", model={"lora_r": 0}, training={"lr": 1e-3, "epochs": 3.0})
    assert any("embed_tokens" in name for name in weights)
    steps = [line for line in log if "loss" in line]
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_non_finite_loss_stops_and_names_pairs(tmp_path):
    with pytest.raises(UserError, match=r"not finite at step \d+ for \d of \d pairs: toy/\d+.*lower training.lr"):
        train(tmp_path, training={"lr": 1e30, "warmup": 0.0, "max_grad_norm": 0.0, "epochs": 4.0})


def test_lora_dropout_and_model_dropout(tmp_path):
    from innerpo.model.dropout import switch_off_dropout

    model = build_model(attention_dropout=0.5)
    switch_off_dropout(model)
    batch = torch.arange(2, 12)[None]
    model.train()
    assert torch.equal(model(batch).logits, model(batch).logits)


# -- what a run leaves behind


def test_run_folder(tmp_path, toy_folder):
    """Through the top code: peft alone loads the adapter; directions, record, card and scores are beside it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from innerpo.config.yaml import read_run_config as load_config
    from innerpo.model.forward.blocks import decoder_blocks
    from innerpo.run import train
    from innerpo.training.directions_file import load_directions

    config = default_run("innerpo")
    config = replace(
        config,
        method=replace(config.method, layers="1,-1"),
        model=replace(config.model, base_model=str(toy_folder), lora_r=4),
        data=replace(config.data, dataset="embedded:longer", max_train_prompts=16, cache_dir=tmp_path / "cache"),
        training=replace(config.training, lr=1e-3, save_steps=1),
        eval=replace(config.eval, max_prompts=6),
        output_dir=tmp_path / "outputs",
    )
    result = train(config)
    folder = run_in(tmp_path / "outputs", "innerpo-none_embedded-longer_seed1")
    assert result.folder == folder
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.yaml",
        "directions.safetensors",
        "headline.json",
        "overlap.jsonl",
        "scored",
        "sets.parquet",
        "headline.md",
        "metrics.jsonl",
        "run.json",
        "pairs.parquet",
        "scores.parquet",
    }
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(toy_folder), folder)
    saved = load_file(folder / "adapter_model.safetensors")
    assert any(t.abs().max() > 0 for n, t in saved.items() if "lora_B" in n)
    assert len(decoder_blocks(policy)) == 4
    assert load_config(folder) == config
    inner = load_directions(folder)
    assert (inner.layers, inner.transform.name, inner.pool, inner.site) == ((1, 3), "none", "mean", "residual")
    assert inner.directions.w.shape == (2, 32)
    record = json.loads((folder / "run.json").read_text())
    assert record["n_pairs"] == 16
    assert record["versions"]["torch"] == torch.__version__
    assert set(facts_of(result, column="model")) == {"base", "innerpo-none"}
    assert set(facts_of(result, column="set")) == {"train", "test", "oos", "rnd"}


def test_full_fine_tune_is_saved_reloaded_and_scored(tmp_path, toy_folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from innerpo.run import evaluate, train

    config = default_run("dpo")
    config = replace(
        config,
        model=replace(config.model, base_model=str(toy_folder), lora_r=0),
        data=replace(config.data, dataset="embedded:longer", max_train_prompts=16, cache_dir=tmp_path / "cache"),
        training=replace(config.training, lr=1e-3, save_steps=0, report_to=("tensorboard",)),
        eval=replace(config.eval, max_prompts=6),
        output_dir=tmp_path / "outputs",
    )
    result = train(config)
    AutoTokenizer.from_pretrained(result.folder)
    trained, base = (AutoModelForCausalLM.from_pretrained(f) for f in (result.folder, toy_folder))
    assert not torch.equal(trained.lm_head.weight, base.lm_head.weight)
    assert list((result.folder / "tensorboard").glob("events*"))
    again = evaluate(result.folder, config)
    assert facts_of(again) == pytest.approx(facts_of(result), abs=1e-5)
    assert facts_of(again, "dpo") != pytest.approx(facts_of(again, "base"), abs=1e-2)


def test_run_config_default_is_a_run():
    assert RunConfig().run_name == "innerpo-none_math_seed1"
