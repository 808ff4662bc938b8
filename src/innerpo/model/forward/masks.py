"""Attention masks for rows that hold several responses: one rule, as a dense mask or as a flex attention block mask."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from innerpo.data.batching.batch import PADDING, PROMPT, SHARED, TokenBatch
from innerpo.model.forward.blocks import text_config

FLEX = "flex_attention"


def may_attend(batch: TokenBatch, window: int | None, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return True where a query may attend to a key. ``row``, ``query`` and ``key`` are broadcastable index tensors.

    A response attends to its prompt and to itself, never to another response or to tokens of another item. ``window``
    limits the distance in *position ids*, as a sliding-window layer does for a response in a row of its own. A padding
    query attends to itself only, so that no softmax row is empty.
    """
    kind_q, kind_k = batch.segments[row, query], batch.segments[row, key]
    owner_q, owner_k = batch.owners[row, query], batch.owners[row, key]
    own = (batch.groups[row, query] == batch.groups[row, key]) & ((owner_k == owner_q) | (owner_k == SHARED))
    allowed = own & ((kind_k == kind_q) | (kind_k == PROMPT)) & (kind_q != PADDING) & (query >= key)
    if window is not None:
        allowed = allowed & (batch.position_ids[row, query] - batch.position_ids[row, key] < window)
    return allowed | (query == key)


def attention_mask(
    batch: TokenBatch, window: int | None = None
) -> Bool[Tensor, "row 1 time time"] | Bool[Tensor, "row time"]:
    """Return True where a query (first time axis) may attend to a key; concatenated layout: the usual padding mask."""
    if batch.layout == "concatenated":
        return batch.segments != PADDING
    rows, time = batch.segments.shape
    row = torch.arange(rows, device=batch.segments.device)[:, None, None]
    order = torch.arange(time, device=batch.segments.device)
    return may_attend(batch, window, row, order[:, None], order)[:, None]


def block_mask(batch: TokenBatch, window: int | None = None) -> Any:
    """Return the same mask as a BlockMask (FlexAttention, arXiv 2412.05496), which skips blocks that are all masked.

    Attention over a packed row then costs the sum of its items' costs, not the square of the row's length.
    """
    rows, time = batch.segments.shape
    device = batch.segments.device
    make = _block_mask_maker(device.type == "cuda")
    return make(
        lambda row, _head, query, key: may_attend(batch, window, row, query, key), rows, None, time, time, device=device
    )


@cache
def _block_mask_maker(compiled: bool) -> Any:
    """Return torch's function, compiled on a GPU: uncompiled it materialises the dense mask (1 GB at 32768 tokens)."""
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask) if compiled else create_block_mask


def mask_for(model: nn.Module, batch: TokenBatch) -> Any:
    """Return the attention mask in the form that the model's attention implementation takes.

    A tensor or BlockMask, or a dict of them by kind of layer where the model has several kinds.
    """
    if batch.layout == "concatenated":
        return attention_mask(batch).long()
    config = text_config(model)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())

    def form(window: int | None) -> Any:
        if config._attn_implementation == FLEX:
            return block_mask(batch, window)
        forbidden = ~attention_mask(batch, window)  # additive: sdpa would convert a bool mask in every layer
        return torch.zeros_like(forbidden, dtype=dtype).masked_fill_(forbidden, torch.finfo(dtype).min)

    kinds = layer_kinds(model)
    window = getattr(config, "sliding_window", None)
    if len(kinds) > 1:
        return {kind: form(window if kind == "sliding_attention" else None) for kind in kinds}
    return form(window if kinds == ("sliding_attention",) else None)


def layer_kinds(model: nn.Module) -> Sequence[str]:
    """Return the kinds of attention layer in the model, e.g. ("full_attention", "sliding_attention")."""
    config = text_config(model)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return tuple(sorted(set(kinds)))
    return ("sliding_attention",) if getattr(config, "sliding_window", None) else ("full_attention",)
