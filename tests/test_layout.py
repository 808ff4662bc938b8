"""The choice of layout: models that ignore 4-D masks or position ids, or that rounding makes differ."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from conftest import build_model
from innerpo.errors import UserError
from innerpo.model.forward.layout import choose_layout


def test_one_row_for_llama_qwen_gemma(family, items):
    choice = choose_layout(build_model(family), items, 0)
    assert choice.layout == "one_row"
    assert "compared one batch both ways" in choice.reason


@pytest.fixture
def mamba():
    """A recurrent model: no attention mask can hide one response of a row from another."""
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0)
    return MambaForCausalLM(config).eval()


@pytest.mark.filterwarnings("ignore:.*fast path.*", "ignore:.*mamba.*")
def test_concatenated_for_a_recurrent_model(mamba, items):
    choice = choose_layout(mamba, items, 0)
    assert choice.layout == "concatenated"
    with pytest.raises(UserError, match="one_row gives other numbers"):
        choose_layout(mamba, items, 0, "one_row")


def test_concatenated_where_the_model_ignores_position_ids(items):
    model = build_model()
    inner = model.model.forward
    model.model.forward = lambda *args, position_ids=None, **kwargs: inner(*args, **kwargs)
    choice = choose_layout(model, items, 0)
    assert choice.layout == "concatenated"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ignored", ["nothing", "position_ids", "attention_mask"])
def test_in_half_precision_rounding_is_not_taken_for_a_fault(dtype, ignored, items):
    """Rounding does not count as a fault, and a fault is not taken for rounding, on any two items."""
    model = build_model().to(dtype)
    inner = model.model.forward
    if ignored != "nothing":
        model.model.forward = lambda *args, **kwargs: inner(*args, **(kwargs | {ignored: None}))
    found = {choose_layout(model, items[i : i + 2], 0).layout for i in range(0, len(items) - 1, 2)}
    assert found == {"one_row" if ignored == "nothing" else "concatenated"}


def test_learned_positions_can_be_one_row(items):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3)
    assert choose_layout(GPT2LMHeadModel(config).eval(), items, 0).layout == "one_row"


def test_unknown_kinds_of_layer_are_not_trusted(items):
    model = build_model()
    model.config.layer_types = ["full_attention", "chunked_attention"] * 2
    choice = choose_layout(model, items, 0)
    assert choice.layout == "concatenated"
    assert "chunked_attention" in choice.reason


def test_concatenated_where_configured(items):
    assert choose_layout(build_model(), items, 0, "concatenated").layout == "concatenated"
