"""Who may look at whom: one rule, as a dense mask or as flex attention's block mask, in the form that a model takes."""

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
    """Whether a query position of a row may look at a key position; index tensors of any shapes that broadcast.

    A response sees its prompt and itself, never another response or what is another item's alone. ``window`` limits
    the distance in *positions*, as a sliding-window layer does for a response on its own. A padding query sees only
    itself, so that no softmax row is empty.
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
    """True where a query (first time axis) may look at a key; in the concatenated layout the usual padding mask."""
    if batch.layout == "concatenated":
        return batch.segments != PADDING
    rows, time = batch.segments.shape
    row = torch.arange(rows, device=batch.segments.device)[:, None, None]
    order = torch.arange(time, device=batch.segments.device)
    return may_attend(batch, window, row, order[:, None], order)[:, None]


def block_mask(batch: TokenBatch, window: int | None = None) -> Any:
    """The same as a BlockMask (FlexAttention, arXiv 2412.05496): blocks in which nobody may look are skipped.

    So attention over a packed row costs what its items cost, not the square of its length.
    """
    rows, time = batch.segments.shape
    device = batch.segments.device
    make = _block_mask_maker(device.type == "cuda")
    return make(
        lambda row, _head, query, key: may_attend(batch, window, row, query, key), rows, None, time, time, device=device
    )


@cache
def _block_mask_maker(compiled: bool) -> Any:
    """Torch's function, compiled on a GPU: else it writes the dense mask out first, 1 GB for 32768 tokens."""
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask) if compiled else create_block_mask


def mask_for(model: nn.Module, batch: TokenBatch) -> Any:
    """The attention mask in the form that the model's attention implementation takes: one, or one for each kind of
    layer.
    """
    if batch.layout == "concatenated":
        return attention_mask(batch).long()
    config = text_config(model)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())

    def form(window: int | None) -> Any:
        if config._attn_implementation == FLEX:
            return block_mask(batch, window)
        forbidden = ~attention_mask(batch, window)  # sdpa would turn bools into numbers in every layer
        return torch.zeros_like(forbidden, dtype=dtype).masked_fill_(forbidden, torch.finfo(dtype).min)

    kinds = layer_kinds(model)
    window = getattr(config, "sliding_window", None)
    if len(kinds) > 1:
        return {kind: form(window if kind == "sliding_attention" else None) for kind in kinds}
    return form(window if kinds == ("sliding_attention",) else None)


def layer_kinds(model: nn.Module) -> Sequence[str]:
    """The kinds of attention layer in the model, e.g. ("full_attention", "sliding_attention")."""
    config = text_config(model)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return tuple(sorted(set(kinds)))
    return ("sliding_attention",) if getattr(config, "sliding_window", None) else ("full_attention",)
