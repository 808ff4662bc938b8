"""Batches: whole small tensors of both layouts, and who may look at whom."""

import pytest
import torch

from innerpo.data.batch import attention_mask, length_batches, make_batch
from innerpo.data.tokens import PromptItem

PAIR = PromptItem((11, 12), ((21, 22), (21, 31, 32)), (2, 3), ((0, 1, "a"),), "c")
SHORT = PromptItem((13,), ((41,), (42,)), (1, 1), ((0, 1, "b"),), "d")


def test_one_row():
    b = make_batch([PAIR, SHORT], "one_row", pad_id=0)
    assert b.input_ids.tolist() == [[11, 12, 21, 22, 21, 31, 32], [13, 41, 42, 0, 0, 0, 0]]
    assert b.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4], [0, 1, 1, 0, 0, 0, 0]]
    assert b.segments.tolist() == [[0, 0, 1, 1, 2, 2, 2], [0, 1, 2, -1, -1, -1, -1]]
    assert b.targets.tolist() == [21, 22, 21, 31, 32, 41, 42]
    assert b.completion.tolist() == [2, 3, 4, 5, 6, 8, 9]
    assert b.predictor.tolist() == [1, 2, 1, 4, 5, 7, 7]  # both first tokens come from the last prompt token
    assert b.sequence.tolist() == [0, 0, 1, 1, 1, 2, 3]
    assert b.offset.tolist() == [0, 1, 0, 1, 2, 0, 0]
    assert b.n_tokens.tolist() == [2, 3, 1, 1]
    assert b.divergence.tolist() == [1, 1, 0, 0]


def test_concatenated():
    b = make_batch([PAIR, SHORT], "concatenated", pad_id=0)
    assert b.input_ids.tolist() == [[11, 12, 21, 22, 0], [11, 12, 21, 31, 32], [13, 41, 0, 0, 0], [13, 42, 0, 0, 0]]
    assert b.targets.tolist() == [21, 22, 21, 31, 32, 41, 42]
    assert b.predictor.tolist() == [1, 2, 6, 7, 8, 10, 15]
    assert b.sequence.tolist() == [0, 0, 1, 1, 1, 2, 3]
    assert b.divergence.tolist() == [1, 1, 0, 0]
    assert attention_mask(b).int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]


def test_rejected_does_not_see_chosen():
    mask = attention_mask(make_batch([PAIR, SHORT], "one_row", pad_id=0))
    assert mask.dtype == torch.bool
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 1, 1, 1],
    ]
    assert mask[1, 0, 3:].int().tolist() == [  # padding sees itself only, so that no softmax row is empty
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]


def test_window_counts_positions_not_columns():
    mask = attention_mask(make_batch([PAIR], "one_row", pad_id=0), window=2)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 1, 0, 0],  # position 2, in column 4: still a neighbour of prompt position 1
        [0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1, 1],
    ]


def test_divergence_of_a_response_that_begins_another():
    cut = PromptItem((1,), ((5, 6), (5, 6, 7)), (2, 3), ((0, 1, "a"),), "c")
    assert make_batch([cut], "one_row", 0).divergence.tolist() == [1, 2]  # never past the last token


@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_more_than_two_responses(layout):
    item = PromptItem((1, 2), ((5,), (6, 7), (8,)), (1, 2, 1), ((0, 1, "a"), (0, 2, "b")), "c")
    b = make_batch([item], layout, 0)
    assert b.n_tokens.tolist() == [1, 2, 1]
    assert b.targets.tolist() == [5, 6, 7, 8]


def test_length_batches_hold_every_index_once_longest_first():
    assert length_batches([3, 9, 5, 7], 3) == [[1, 3, 2], [0]]
