"""A base model that many runs share: untouched by each of them, loaded once, its reference computed once."""

import json
from dataclasses import replace

import pytest
import torch

import innerpo
from conftest import build_model, build_tokenizer
from innerpo.model import adapters, reference
from innerpo.model.adapters import add_adapter, load_adapter, remove_adapter
from innerpo.model.base import Base
from innerpo.model.cache import TensorMemory

SMALL = {
    "model.lora_r": 2,
    "method.layers": "1,2",
    "data.batch_size": 4,
    "data.max_train_prompts": 8,
    "training.max_steps": 2,
    "training.lr": 1e-2,
    "training.save_steps": 0,
    "eval.max_prompts": 4,
}


def state_of(model):
    """Everything of a model that an adapter might leave changed."""
    return {
        "weights": {n: t.clone() for n, t in model.state_dict().items()},
        "modules": {n: type(m) for n, m in model.named_modules()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()},
        "trainable": [n for n, p in model.named_parameters() if p.requires_grad],
        "training": [n for n, m in model.named_modules() if m.training],
        "checkpointing": [n for n, m in model.named_modules() if getattr(m, "gradient_checkpointing", False)],
        "config": json.dumps(model.config.to_dict(), sort_keys=True, default=str),
        "attributes": sorted(set(vars(model)) - {"forward"}),
    }


def assert_same_state(model, before):
    after = state_of(model)
    for name, value in before.items():
        if name == "weights":
            assert value.keys() == after[name].keys()
            assert all(torch.equal(value[n], after[name][n]) for n in value)
        else:
            assert after[name] == value, name


@torch.no_grad()
def logits_of(model):
    return model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits


@pytest.fixture
def base():
    return Base(build_model(), build_tokenizer(), "toy", "toy")


@pytest.mark.parametrize("method", ["dpo", "innerpo", "projbp"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_leaves_the_base_bit_for_bit_as_it_was(base, tmp_path, method, checkpointing):
    before, logits = state_of(base.model), logits_of(base.model)
    options = SMALL | {"data.cache_dir": tmp_path, "output_dir": tmp_path, "eval.skip": True}
    options |= {"training.gradient_checkpointing": checkpointing}
    run = innerpo.train(base, method, data="embedded:compare", **options)
    assert (run.folder / "adapter_model.safetensors").is_file()
    assert_same_state(base.model, before)
    assert torch.equal(logits_of(base.model), logits)
    policy = load_adapter(base, run.folder)
    assert not torch.equal(logits_of(policy), logits)  # the adapter did learn something
    remove_adapter(base, policy)
    assert_same_state(base.model, before)
    assert torch.equal(logits_of(base.model), logits)


def test_full_fine_tuning_trains_a_copy(base):
    before = state_of(base.model)
    policy = add_adapter(base, innerpo.ModelConfig(lora_r=0), seed=1)
    with torch.no_grad():
        next(policy.parameters()).add_(1.0)
    remove_adapter(base, policy)
    assert all(p.requires_grad for p in policy.parameters())
    assert_same_state(base.model, before)


def test_a_second_run_loads_nothing_and_computes_no_reference(toy_folder, tmp_path, monkeypatch):
    """Counted: calls of from_pretrained for the model, and forward passes of the reference."""
    from transformers import AutoModelForCausalLM

    loads, computed = [], []
    load, compute = AutoModelForCausalLM.from_pretrained, reference._compute
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: loads.append(a) or load(*a, **k))
    monkeypatch.setattr(reference, "_compute", lambda *a, **k: computed.append(a) or compute(*a, **k))
    options = SMALL | {"data.cache_dir": tmp_path / "cache", "output_dir": tmp_path / "out"}
    base = innerpo.load_base(str(toy_folder), cache_dir=tmp_path / "cache")
    innerpo.train(base, "innerpo", data="embedded:compare", **options)
    first = len(computed)
    assert (len(loads), first > 0) == (1, True)
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        file.unlink()  # what is remembered is in memory, too
    again = innerpo.train(base, "innerpo", data="embedded:compare", **options | {"training.seed": 2})
    innerpo.train(base, "dpo", data="embedded:compare", **options)
    scores = innerpo.evaluate(base, again.folder)
    assert (len(loads), len(computed)) == (1, first)
    assert scores.tables["mean_logp"].cells == again.tables["mean_logp"].cells


def test_a_model_in_memory_is_frozen_and_named_by_its_weights():
    model, other = build_model().train(), build_model()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    a, b, c = Base(model, build_tokenizer()), Base(build_model(), build_tokenizer()), Base(other, build_tokenizer())
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    assert a.identity == b.identity != c.identity


def test_memory_keeps_what_was_used_last_within_its_limit():
    memory = TensorMemory(limit_bytes=40)
    for key in "abc":
        memory.put(key, {"x": torch.zeros(4)})  # 16 bytes
        memory.get("a")
    assert [memory.get(k) is not None for k in "abc"] == [True, False, True]
    memory.put("large", {"x": torch.zeros(100)})
    assert memory.get("large") is None
    assert memory.n_bytes <= 40


def test_public_names_resolve_and_a_wrong_one_is_an_attribute_error():
    assert all(getattr(innerpo, name) is not None for name in innerpo.__all__)
    assert set(innerpo._PUBLIC) == set(innerpo.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        innerpo.nope  # noqa: B018


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: innerpo.run_config("dpoo"), "unknown method 'dpoo'; did you mean 'dpo'"),
        (lambda: innerpo.run_config("dpo", **{"training.lrr": 1.0}), "unknown key 'lrr'; did you mean 'lr'"),
        (lambda: innerpo.run_config("dpo", **{"training.lr": "fast"}), "'fast' is not a float"),
        (lambda: innerpo.evaluate(None, "no-such-folder"), "there is no folder no-such-folder"),
        (lambda: innerpo.train(None, innerpo.default_run("dpo"), data="math"), "holds all options already"),
    ],
)
def test_faults_are_named(call, message):
    with pytest.raises(innerpo.UserError, match=message):
        call()


# -- one adapter at a time, and options that loading used up -----------------------------------------------------------


def test_an_adapter_left_on_the_base_stops_the_next_run_before_anything_is_cached(toy_folder, tmp_path):
    options = SMALL | {"data.cache_dir": tmp_path / "cache", "output_dir": tmp_path}
    base = innerpo.load_base(str(toy_folder))
    run = innerpo.train(base, "dpo", data="embedded:compare", **options)
    kept = set((tmp_path / "cache").rglob("*"))
    loaded = innerpo.load(run.folder, base)
    for call in (
        lambda: innerpo.train(base, "innerpo", data="embedded:compare", **options),
        lambda: innerpo.evaluate(base, run.folder),
        lambda: innerpo.load(run.folder, base),
    ):
        with pytest.raises(innerpo.UserError, match="an adapter is on the base model"):
            call()
    assert set((tmp_path / "cache").rglob("*")) == kept
    innerpo.remove_adapter(base, loaded.policy)
    innerpo.evaluate(base, run.folder)


def test_an_adapter_that_does_not_fit_leaves_the_base_as_it_was(base, tmp_path):
    wide = Base(build_model(hidden_size=64, head_dim=16), build_tokenizer(), "wide", "wide")
    add_adapter(wide, innerpo.ModelConfig(lora_r=2), seed=1).save_pretrained(tmp_path)
    before = state_of(base.model)
    with pytest.raises(innerpo.UserError, match="does not fit the base model"):
        load_adapter(base, tmp_path)
    assert_same_state(base.model, before)
    remove_adapter(base, add_adapter(base, innerpo.ModelConfig(lora_r=2), seed=1))
    assert_same_state(base.model, before)


def test_an_interrupt_while_an_adapter_is_put_on_leaves_the_base_as_it_was(base, monkeypatch):
    before = state_of(base.model)

    def interrupted(policy):
        raise KeyboardInterrupt

    monkeypatch.setattr(adapters, "fuse_lora", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_adapter(base, innerpo.ModelConfig(lora_r=2), seed=1)
    assert_same_state(base.model, before)


def test_a_run_records_how_its_base_was_loaded(toy_folder):
    base = innerpo.load_base(str(toy_folder), dtype="bfloat16", attention="eager")
    config = innerpo.run_config("dpo", base=base)
    assert (config.model.base_model, config.model.dtype, config.model.attention) == (
        str(toy_folder),
        "bfloat16",
        "eager",
    )
    with pytest.raises(innerpo.UserError, match=r"model.dtype='float32', but the base model .* loaded with 'bfloat16'"):
        innerpo.run_config("dpo", base=base, **{"model.dtype": "float32"})
    in_memory = Base(build_model(), build_tokenizer())
    assert innerpo.run_config("dpo", base=in_memory).model.dtype == "float32"


def test_full_fine_tuning_of_half_precision_weights_must_be_chosen(toy_folder, tmp_path):
    base = innerpo.load_base(str(toy_folder), dtype="bfloat16")
    base.loaded = replace(base.loaded, dtype="auto")  # as on hardware with bfloat16 units
    options = SMALL | {"data.cache_dir": tmp_path, "output_dir": tmp_path, "model.lora_r": 0}
    with pytest.raises(innerpo.UserError, match=r"full fine-tuning .* trains float32 weights"):
        innerpo.train(base, "dpo", data="embedded:compare", **options)


def test_an_adapter_made_elsewhere_needs_its_training_set_named(base, tmp_path):
    policy = add_adapter(base, innerpo.ModelConfig(lora_r=2), seed=1)
    policy.save_pretrained(tmp_path)
    remove_adapter(base, policy)
    with pytest.raises(innerpo.UserError, match=r"its training set is unknown; name it by eval\.train_dataset"):
        innerpo.evaluate(base, tmp_path)
