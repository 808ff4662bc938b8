"""Parsing of method.layers, and finding decoder blocks."""

import pytest

from conftest import build_model
from innerpo.errors import UserError
from innerpo.model.forward.blocks import decoder_blocks
from innerpo.model.layer_spec import resolve_layers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", (3,)),
        ("-2,-1", (28, 29)),
        ("0.5", (14,)),
        ("0.0, 1.0", (0, 29)),
        ("range(3,10,2)", (3, 5, 7, 9)),
        ("range(.3,-1)", tuple(range(9, 29))),
        ("range(27,30)", (27, 28, 29)),
        ("0.4,0.6,0.8", (12, 17, 23)),
        ("range(0,2) 5,-1,5", (0, 1, 5, 29)),
    ],
)
def test_layers_of_thirty(text, expected):
    assert resolve_layers(text, 30) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("30", "there is no layer 30; the model has blocks 0 to 29"),
        ("-31", "there is no layer -31"),
        ("1.5", "fraction 1.5 does not lie between 0 and 1"),
        ("middle", "'middle' is not a number or a range"),
        ("", "names no layer"),
        ("range(5,5)", "names no layer"),
        ("range(5)", r"range takes \(start, stop\)"),
        ("range(1,5,0)", "step of a range"),
    ],
)
def test_wrong_words_say_what_would_be_right(text, message):
    with pytest.raises(UserError, match=message):
        resolve_layers(text, 30)


def test_blocks_are_found_in_every_family(family):
    model = build_model(family)
    assert decoder_blocks(model) is model.model.layers
