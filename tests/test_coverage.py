"""Adapters on all linear maps: what they leave out (routers, vision encoders) and what is said of large weights."""

import logging

import pytest
import torch

from conftest import build_model
from families import FAST, SMALL
from innerpo.config.model import ModelConfig
from innerpo.data.batching.batch import make_batch
from innerpo.errors import UserError
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base
from innerpo.model.coverage import excluded_from_all_linear
from innerpo.model.forward.blocks import decoder_blocks
from innerpo.model.forward.layout import choose_layout
from innerpo.model.forward.outputs import StateRequest, sequence_outputs


def toy(model_type):
    return next(f for f in FAST if f.model_type == model_type).build()


def vision_language_model():
    """Gemma 3 with a vision encoder of as many blocks as the language model has, and before it."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(0)
    kinds = ["sliding_attention", "full_attention"] * 2
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = Gemma3Config(
        text_config=SMALL | {"sliding_window": 6, "layer_types": kinds},
        vision_config=vision | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=300,
        boi_token_index=301,
        eoi_token_index=302,
    )
    return Gemma3ForConditionalGeneration(config).eval()


def adapted_names(policy):
    return {name for name, module in policy.named_modules() if hasattr(module, "base_layer")}


def test_a_vision_language_model_is_read_and_adapted_in_its_language_part(tokenizer, items):
    model = vision_language_model()
    language = model.model.language_model
    assert decoder_blocks(model) is language.layers
    assert choose_layout(model, items, 0).layout == "one_row"
    policy = add_adapter(Base(model, tokenizer, "vlm", "vlm"), ModelConfig(lora_r=2), seed=1)
    assert decoder_blocks(policy) is language.layers
    assert len(adapted_names(policy)) == 4 * 7
    assert all(".language_model." in name for name in adapted_names(policy))
    out = sequence_outputs(policy.train(), make_batch(items[:2], "one_row", 0), StateRequest((1,)))
    (out.logps.sum() + out.pooled.sum()).backward()
    assert all(p.grad is not None for p in policy.parameters() if p.requires_grad)


def test_a_router_that_returns_a_tuple_is_not_adapted(tokenizer, items):
    """peft wraps Llama 4's router, a subclass of nn.Linear, and then fails on the tuple that it returns."""
    model = toy("llama4_text")
    policy = add_adapter(Base(model, tokenizer, "llama4", "llama4"), ModelConfig(lora_r=2), seed=1)
    names = adapted_names(policy)
    assert not [name for name in names if "router" in name]
    assert [name for name in names if name.endswith("q_proj")]
    sequence_outputs(policy.train(), make_batch(items[:2], "concatenated", 0)).logps.sum().backward()


def test_plain_models_have_no_exclusions():
    assert excluded_from_all_linear(build_model()) is None


@pytest.mark.parametrize(
    ("model_type", "found"),
    [
        ("gpt_oss", r"none on model.layers.*.mlp.experts.gate_up_proj (44%), model.layers.*.mlp.experts.down_proj"),
        ("llama", ""),
    ],
)
def test_large_weights_without_adapter_are_logged(model_type, found, tokenizer, caplog):
    with caplog.at_level(logging.INFO, logger="innerpo"):
        add_adapter(Base(toy(model_type), tokenizer, "toy", "toy"), ModelConfig(lora_r=2), seed=1)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("adapter:")]
    assert len(lines) == bool(found)
    assert all(found in line for line in lines)


def test_the_base_is_restored_where_peft_gives_up_half_way(tokenizer):
    """peft refuses Mamba's out_proj after it has wrapped the modules before it."""
    base = Base(toy("mamba"), tokenizer, "toy", "toy")
    names = [name for name, _ in base.model.named_modules()]
    with pytest.raises(UserError, match=r"'in_proj,out_proj' cannot be adapted in 'toy': .*'out_proj' is incompatible"):
        add_adapter(base, ModelConfig(lora_r=2, target_modules="in_proj,out_proj"), seed=1)
    assert [name for name, _ in base.model.named_modules()] == names
    policy = add_adapter(base, ModelConfig(lora_r=2), seed=1)
    assert {name.split(".")[-1] for name in adapted_names(policy)} == {"in_proj", "x_proj", "dt_proj"}
