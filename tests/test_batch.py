"""Batches: complete small tensors of each layout, and their attention masks."""

import pytest
import torch

from innerpo.data.batching.batch import make_batch
from innerpo.data.batching.order import length_batches
from innerpo.data.tokens import PromptItem
from innerpo.model.forward.masks import attention_mask

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


def long(*ends):
    """Items whose prompts begin with the same eight tokens."""
    begin = (1, 2, 3, 4, 5, 6, 7, 8)
    return [PromptItem((*begin, *e), ((21, 22), (31,)), (2, 1), ((0, 1, "x"),), "c") for e in ends]


def test_prompts_that_begin_alike_share_a_row():
    b = make_batch(long((9, 10), (11,)), "one_row", pad_id=0)
    assert b.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 21, 22, 31, 11, 21, 22, 31]]
    assert b.position_ids.tolist() == [[*range(8), 8, 9, 10, 11, 10, 8, 9, 10, 9]]
    assert b.segments.tolist() == [[0] * 10 + [1, 1, 2, 0, 3, 3, 4]]
    assert b.owners.tolist() == [[0] * 8 + [1] * 5 + [2] * 4]
    assert b.predictor.tolist() == [9, 10, 9, 13, 14, 13]
    assert b.completion.tolist() == [10, 11, 12, 14, 15, 16]
    assert b.sequence.tolist() == [0, 0, 1, 2, 2, 3]
    sees = {q: [k for k in range(17) if attention_mask(b)[0, 0, q, k]] for q in (7, 9, 12, 13, 15, 16)}
    begin = list(range(8))
    assert sees == {
        7: begin,
        9: [*begin, 8, 9],
        12: [*begin, 8, 9, 12],
        13: [*begin, 13],  # the second prompt's own part sees nothing of the first item
        15: [*begin, 13, 14, 15],
        16: [*begin, 13, 16],
    }


@pytest.mark.parametrize(
    ("ends", "row_tokens", "rows"),
    [
        (((9,), (10,), (11,)), 512, [3]),
        (((9,), (10,), (11,), (12,)), 16, [2, 2]),  # 8 + 2 x 4 tokens
        (((9,), (10,), (11,), (12,)), 20, [2, 2]),  # 3 + 1 would be padded
        (((9,), (10,), (11,)), 15, [1, 1, 1]),
        (((9,), (10,), (11,)), 0, [1, 1, 1]),
        (((), ()), 512, [1, 1]),  # seven tokens could be shared, the eighth must predict: too few
        (((9, 9, 9), (9, 9, 9)), 512, [2]),  # the same prompt twice
        (((9,) * 12, (9,) * 12, (10,)), 512, [2, 1]),  # with the third, 2 x 8 tokens would be shared instead of 19
    ],
)
def test_which_items_share(ends, row_tokens, rows):
    b = make_batch(long(*ends), "one_row", pad_id=0, row_tokens=row_tokens)
    assert [int(r.max()) for r in b.owners] == rows
    assert int((b.segments >= 0).sum()) <= sum(i.n_tokens for i in long(*ends))


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
