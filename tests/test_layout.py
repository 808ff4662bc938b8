"""The choice of layout: models that ignore 4-D masks or position ids, or that rounding makes differ."""

from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from conftest import build_model
from families import FAST, Family
from innerpo.data.batching.batch import make_batch
from innerpo.errors import UserError
from innerpo.model.forward import layout
from innerpo.model.forward.layout import choose_layout
from innerpo.model.forward.outputs import StateRequest, sequence_outputs


def test_one_row_for_llama_qwen_gemma(family, items):
    choice = choose_layout(build_model(family), items, 0)
    assert choice.layout == "one_row"
    assert "compared one batch and a row of" in choice.reason


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


@pytest.fixture
def short(items):
    """Items of fewer tokens than the windows below."""
    return [i for i in items if i.n_tokens < 48]


@pytest.mark.parametrize("declared", [True, False])
def test_a_window_in_positions_of_the_row_is_found_out(declared, short, monkeypatch):
    """GPT-Neo's local layers look back 64 positions of the row, whatever the mask and the position ids.

    Items are shorter than that, but rows that share a prompt are not. It is found by the name of the config field, and
    by its effect where the config does not tell.
    """
    attention = [[["global", "local"], 2]]
    model = Family(
        "gpt_neo", {"num_layers": 4, "num_heads": 4, "window_size": 64, "attention_types": attention}
    ).build()
    if not declared:
        monkeypatch.setattr(layout, "_row_window", lambda model: "")
    choice = choose_layout(model, short, 0)
    assert choice.layout == "concatenated"
    assert ("window_size=64" if declared else "compared a row of") in choice.reason
    with pytest.raises(UserError, match="one_row gives other numbers"):
        choose_layout(model, short, 0, "one_row")


def test_gpt_neo_without_local_layers_can_be_one_row(items):
    attention = [[["global"], 4]]
    changes = {"num_layers": 4, "num_heads": 4, "attention_types": attention, "max_position_embeddings": 1024}
    model = Family("gpt_neo", changes).build()
    assert choose_layout(model, items, 0).layout == "one_row"


def test_the_longest_item_is_compared_not_only_the_first_two(items):
    """A model that breaks on rows of more than 600 tokens: one item of such a length is enough."""
    model = build_model(max_position_embeddings=2048)
    inner = model.model.forward

    def breaks(*args, input_ids=None, position_ids=None, **kwargs):
        ids = None if input_ids.shape[1] > 600 else position_ids
        return inner(*args, input_ids=input_ids, position_ids=ids, **kwargs)

    model.model.forward = breaks
    assert choose_layout(model, items, 0).layout == "one_row"
    long = replace(items[5], prompt=items[5].prompt * 20)
    assert long.n_tokens > 600
    assert choose_layout(model, [*items, long], 0).layout == "concatenated"


def test_states_that_are_not_one_vector_a_token_are_left_out_of_the_comparison(items):
    """Gemma 3n's blocks pass on several streams: methods without states work, others are refused by a clear line."""
    model = next(f for f in FAST if f.model_type == "gemma3n_text").build()
    choice = choose_layout(model, items, 0)
    assert choice.layout == "one_row"
    assert "pooled" not in choice.reason
    with pytest.raises(UserError, match=r"block 1 of Gemma3nForCausalLM .* a method that reads no states"):
        sequence_outputs(model, make_batch(items, "one_row", 0), StateRequest((1,)))


def test_a_model_that_cannot_be_run_is_a_clear_error(items):
    model = build_model()

    def fails(*args, **kwargs):
        raise ValueError("You must specify\npixel_values")

    model.model.forward = fails
    with pytest.raises(UserError, match="LlamaForCausalLM cannot be run on text alone: You must specify pixel_values"):
        choose_layout(model, items, 0)


@pytest.mark.parametrize(
    ("logps", "pooled", "rounding"),
    [
        (0.108, 0.017, True),  # raven_easy, whose responses are two tokens long
        (0.065, 0.094, False),  # math_easy with position ids ignored
        (0.549, 0.233, False),  # us_history with the mask ignored
        (0.05, None, True),
        (0.2, None, False),  # log-probabilities alone: the stricter limit
    ],
)
def test_bfloat16_rounding_as_measured(logps, pooled, rounding):
    assert layout._Difference(logps, pooled).within(torch.bfloat16) == rounding
