"""The longest text that a model can read: found in its config, and checked before a run."""

import math

import pytest
import torch

from conftest import build_model
from families import FAST, SLOW, Family
from innerpo.data.batching.batch import make_batch
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.model.context import check_context, max_positions
from innerpo.model.forward.outputs import sequence_outputs

FAMILIES = {f.name: f for f in FAST + SLOW}


def rope(**parameters):
    return {"rope_parameters": {"rope_theta": 1e4} | parameters}


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", 256),
        ("gpt2", 256),
        ("gpt_neo", 256),
        ("gptj", 256),
        ("opt", 256),
        ("xglm", 256),
        ("falcon", 256),
        ("gemma3_text", 256),
        ("mpt", 256),
        ("falcon (ALiBi)", math.inf),
        ("bloom", math.inf),
        ("mamba", math.inf),
    ],
)
def test_of_families(family, expected):
    assert max_positions(FAMILIES[family].build()) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (rope(rope_type="linear", factor=4.0), 1024),
        (rope(rope_type="dynamic", factor=2.0), 512),
        (rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=128), 512),
        (rope(rope_type="yarn", factor=2.0, original_max_position_embeddings=128), 256),
        (
            rope(rope_type="llama3", factor=8.0, original_max_position_embeddings=32)
            | {"max_position_embeddings": 256},
            256,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_scaled_rotary_positions(changes, expected):
    if changes["rope_parameters"]["rope_type"] == "llama3":
        changes["rope_parameters"] |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert max_positions(Family("llama", changes).build()) == expected


def item(prompt, *responses):
    return PromptItem(
        tuple(range(2, 2 + prompt)), tuple((5,) * n for n in responses), (1,) * len(responses), ((0, 1, "a"),), "a"
    )


def test_other_responses_of_the_row_do_not_count():
    model = build_model(max_position_embeddings=32)
    check_context(model, [item(20, 12, 12), item(1, 31, 31, 31)])
    with pytest.raises(UserError) as error:
        check_context(model, [item(20, 12, 12), item(21, 5, 12), item(26, 8, 5)], "toy")
    assert str(error.value) == (
        "2 of 3 items of toy are longer than the model's 32 positions: the longest has 26 prompt and 8 response "
        "tokens; data.max_prompt_tokens=20 with data.max_response_tokens=12 would fit"
    )


@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_learned_positions_end_where_the_check_says(layout):
    """GPT-2: what the check accepts runs, one token more is an IndexError in the model."""
    model = FAMILIES["gpt2"].build(max_position_embeddings=32)
    check_context(model, [item(20, 12, 12)])
    with torch.no_grad():
        sequence_outputs(model, make_batch([item(20, 12, 12)], layout, 0))
        with pytest.raises(IndexError):
            sequence_outputs(model, make_batch([item(21, 12, 12)], layout, 0))
    with pytest.raises(UserError, match=r"1 of 1 items .* model's 32 positions"):
        check_context(model, [item(21, 12, 12)])
