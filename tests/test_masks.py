"""Attention masks of rows with several responses: dense, as flex attention block masks, and in packed rows."""

from dataclasses import replace

import pytest
import torch

from conftest import build_model
from innerpo.config.model import ModelConfig
from innerpo.data.batching.batch import PADDING, make_batch
from innerpo.data.batching.order import by_prompt, rows_of, token_batches
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.model.forward.layout import choose_layout
from innerpo.model.forward.masks import attention_mask, block_mask, may_attend
from innerpo.model.forward.outputs import StateRequest, sequence_outputs
from innerpo.model.numerics.hardware import choose_attention

BEGIN = tuple(range(1, 9))
ITEMS = [
    PromptItem((*BEGIN, 9), ((21, 22), (31,)), (2, 1), ((0, 1, "a"),), "a"),
    PromptItem((*BEGIN, 10), ((41,), (51,)), (1, 1), ((0, 1, "b"),), "b"),
    PromptItem((11, 12), ((61,), (71, 72)), (1, 2), ((0, 1, "c"),), "c"),
]


def test_a_packed_row():
    b = make_batch(ITEMS, "packed", pad_id=0)
    assert b.input_ids.shape == (1, 128)  # a multiple of 128: flex attention's block
    n = 20
    assert b.input_ids[0, :n].tolist() == [*BEGIN, 9, 21, 22, 31, 10, 41, 51, 11, 12, 61, 71, 72]
    assert not b.input_ids[0, n:].any()
    assert b.position_ids[0, :n].tolist() == [*range(8), 8, 9, 10, 9, 8, 9, 9, 0, 1, 2, 2, 3]
    assert b.segments[0, :n].tolist() == [0] * 9 + [1, 1, 2, 0, 3, 4, 0, 0, 5, 6, 6]
    assert b.owners[0, :n].tolist() == [0] * 8 + [1] * 4 + [2] * 3 + [3] * 5
    assert b.groups[0, :n].tolist() == [0] * 15 + [1] * 5
    assert (b.segments[0, n:] == PADDING).all()
    assert b.predictor.tolist() == [8, 9, 8, 12, 12, 16, 16, 18]
    sees = {q: [k for k in range(128) if attention_mask(b)[0, 0, q, k]] for q in (8, 11, 12, 14, 15, 16, 19, 20)}
    begin = list(range(8))
    assert sees == {
        8: [*begin, 8],
        11: [*begin, 8, 11],
        12: [*begin, 12],
        14: [*begin, 12, 14],
        15: [15],  # another group: nothing of the beginning that the first two share
        16: [15, 16],
        19: [15, 16, 18, 19],
        20: [20],
    }


def test_packed_rows_change_no_number(family, items):
    """Log-probs, states and gradients are those of a row a response, with shared beginnings and without."""
    model, request = build_model(family), StateRequest((0, 3), token_states=True)
    for change in (lambda prompt: prompt, lambda prompt: (*range(40, 55), *prompt)):
        longer = [replace(item, prompt=change(item.prompt)) for item in items]
        longer = [longer[i] for i in by_prompt(longer, range(len(longer)))]
        found, cells = [], []
        for layout in ("concatenated", "packed"):
            model.zero_grad()
            batch = make_batch(longer, layout, 0)
            cells.append(batch.input_ids.numel())
            out = sequence_outputs(model, batch, request)
            (out.logps.sum() + out.pooled.square().sum()).backward()
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            found.append([out.logps.detach(), out.pooled.detach(), out.token_states.detach(), *gradients])
        assert cells[1] < 0.7 * cells[0]
        for alone, packed in zip(*found, strict=True):
            torch.testing.assert_close(alone, packed, rtol=1e-3, atol=1e-4 * max(1.0, alone.abs().max().item()))


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("layout", ["one_row", "packed"])
def test_the_block_mask_skips_no_allowed_cell(layout, window, items):
    """Block by block: a block that it calls full has no forbidden cell, one that it leaves out no allowed one."""
    batch = make_batch(items * 3, layout, 0)
    dense = attention_mask(batch, window)
    blocks = block_mask(batch, window)
    assert blocks.shape == dense.shape
    rows, _, time, _ = dense.shape
    kept = blocks.to_dense()[:, 0].bool()
    full = torch.zeros_like(kept)  # blocks that the kernel takes whole, without asking the rule
    for row, i in torch.cartesian_prod(torch.arange(rows), torch.arange(kept.shape[1])).tolist():
        full[row, i, blocks.full_kv_indices[row, 0, i, : blocks.full_kv_num_blocks[row, 0, i]].long()] = True
    size = blocks.BLOCK_SIZE[0]
    for row in range(rows):
        for i in range(kept.shape[1]):
            for j in range(kept.shape[2]):
                cells = dense[row, 0, i * size : (i + 1) * size, j * size : (j + 1) * size]
                assert bool(kept[row, i, j]) == bool(cells.any())
                assert bool(full[row, i, j]) == (bool(cells.all()) and cells.shape == (size, size))
    every = torch.arange(time)
    for row in range(rows):
        seen = blocks.mask_mod(torch.tensor(row), torch.tensor(0), every[:, None], every)
        assert torch.equal(seen, dense[row, 0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the test below runs it there")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_flex_attention_gives_the_same_on_a_cpu(items):
    """Forward only: torch has no backward pass of it there. It is compiled by the C++ compiler."""
    plain, flex = build_model(), build_model(attn_implementation="flex_attention")
    batch = make_batch(items, "packed", 0)
    with torch.no_grad():
        a, b = (sequence_outputs(m, batch, StateRequest((1,), token_states=True)) for m in (plain, flex))
    torch.testing.assert_close(a.logps, b.logps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a.token_states, b.token_states, rtol=1e-3, atol=1e-3)
    assert choose_layout(flex, items, 0).layout == "packed"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention's backward pass needs a GPU")
def test_flex_attention_gives_the_same_on_a_gpu(items):
    found = []
    for kind, layout in (("sdpa", "concatenated"), ("flex_attention", "packed")):
        # The kernel wants heads of at least 16.
        model = build_model(attn_implementation=kind, head_dim=16).cuda()
        out = sequence_outputs(model, make_batch(items, layout, 0).to("cuda"), StateRequest((1,), token_states=True))
        (out.logps.sum() + out.pooled.square().sum()).backward()
        found.append([out.logps.detach(), out.pooled.detach(), *[p.grad for p in model.parameters()]])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2 * max(1.0, a.abs().max().item()))


def test_flex_attention_is_refused_where_it_cannot_train():
    with pytest.raises(UserError, match="no backward pass on a CPU"):
        choose_attention(ModelConfig(attention="flex_attention"), torch.float32, torch.device("cpu"))
    found = choose_attention(ModelConfig(attention="flex_attention"), torch.bfloat16, torch.device("cuda"))
    assert found.value == "flex_attention"


def test_packed_batches_count_tokens_and_no_padding(items):
    rows = [(1, 5), (1, 9), (1, 4), (1, 3), (1, 30)]
    assert token_batches(rows, 20, "packed") == [[4], [1], [0, 2, 3]]  # 30 alone; 9; 12: even
    assert token_batches(rows, 21, "packed") == [[4], [1, 0, 2, 3]]
    assert token_batches(rows, 0, "packed") == [[4, 1, 0, 2, 3]]
    for item in items:
        assert rows_of(item, "packed") == (1, int((make_batch([item], "packed", 0).segments != PADDING).sum()))


def test_packed_where_configured(items):
    choice = choose_layout(build_model(), items, 0, "packed")
    assert choice.layout == "packed"
    assert "compared one batch" in choice.reason


def test_the_rule_by_hand():
    b = make_batch(ITEMS[2:], "one_row", 0)  # 11 12 | 61 | 71 72
    at = torch.tensor
    assert bool(may_attend(b, None, at(0), at(4), at(1)))
    assert not bool(may_attend(b, None, at(0), at(4), at(2)))
    assert not bool(may_attend(b, None, at(0), at(1), at(4)))
    assert not bool(may_attend(b, 2, at(0), at(4), at(1)))  # positions 3 and 1
