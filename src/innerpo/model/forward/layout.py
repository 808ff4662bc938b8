"""Choose the batch layout: test whether a model handles rows of several responses (4-D masks, restarted positions)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from innerpo.data.batching.batch import TokenBatch, make_batch
from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.model.forward.blocks import decoder_blocks, text_config
from innerpo.model.forward.masks import FLEX, layer_kinds
from innerpo.model.forward.outputs import SequenceOutputs, StateRequest, sequence_outputs

# Largest difference between the layouts that rounding explains: (log-probabilities in nats per token, root mean square
# of the difference of pooled states, whose own root mean square is about 1). Measured with SmolLM2-135M on 36 batches
# (LOG.md): up to 0.031 and 0.007 in bfloat16. A model that ignores position ids is off by at least 0.09 in the states,
# one that ignores the mask by 0.25.
TOLERANCE = {torch.float32: (1e-3, 1e-3), torch.float16: (2e-2, 5e-3), torch.bfloat16: (1e-1, 2e-2)}


@dataclass(frozen=True)
class LayoutChoice:
    """The chosen layout, and the reason for the log."""

    layout: Layout
    reason: str


def choose_layout(
    model: nn.Module,
    items: Sequence[PromptItem],
    pad_id: int,
    wanted: Layout | Literal["auto"] = "auto",
) -> LayoutChoice:
    """Return ``one_row`` if it gives the same numbers as one response per row, else ``concatenated``.

    With flex attention, which skips masked blocks, ``packed`` takes the place of ``one_row``. Raises UserError if
    ``wanted`` names one of the two and the model does not handle it.
    """
    if wanted == "concatenated":
        return LayoutChoice("concatenated", "set by data.layout")
    flex = text_config(model)._attn_implementation == FLEX
    tried: Layout = wanted if wanted != "auto" else "packed" if flex else "one_row"
    unknown = set(layer_kinds(model)) - {"full_attention", "sliding_attention"}
    if unknown:
        logps = pooled = float("inf")
        reason = f"the model has layers of kind {', '.join(sorted(unknown))}"
    else:
        logps, pooled, reason = _differences(model, items[:2], pad_id, tried)
    weight = next(model.parameters())
    mixed = torch.is_autocast_enabled(weight.device.type)
    dtype = torch.get_autocast_dtype(weight.device.type) if mixed else weight.dtype
    limits = TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16])
    honoured = logps <= limits[0] and pooled <= limits[1]
    if wanted != "auto" and not honoured:
        raise UserError(
            f"data.layout={wanted} gives other numbers than one response a row ({reason}); use data.layout=concatenated"
        )
    return LayoutChoice(tried if honoured else "concatenated", reason)


@torch.no_grad()
def _differences(model: nn.Module, items: Sequence[PromptItem], pad_id: int, tried: Layout) -> tuple[float, float, str]:
    """Return the largest difference in log-probability per token and in pooled state, and a sentence with both."""
    device = next(model.parameters()).device
    request = StateRequest((len(decoder_blocks(model)) - 1,))
    was_training = model.training
    model.eval()
    try:
        b = _plain(model, make_batch(items, "concatenated", pad_id).to(device), request)
        a = sequence_outputs(model, make_batch(items, tried, pad_id).to(device), request)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        return float("inf"), float("inf"), f"the model refuses such a batch: {str(error).splitlines()[0][:120]}"
    finally:
        model.train(was_training)
    assert a.pooled is not None
    assert b.pooled is not None
    logps = ((a.logps - b.logps).abs() / a.n_tokens).max().item()
    pooled = (a.pooled - b.pooled).square().mean(-1).sqrt().max().item()
    found = f"log-probs differ by {logps:.1e} nats a token, pooled states by {pooled:.1e}"
    return logps, pooled, f"compared one batch both ways: {found}"


def _plain(model: nn.Module, batch: TokenBatch, request: StateRequest) -> SequenceOutputs:
    """Run a batch with one response a row. If that fails, the model cannot be run at all, whatever the layout."""
    try:
        return sequence_outputs(model, batch, request)
    except RuntimeError as error:
        if text_config(model)._attn_implementation != FLEX:
            raise
        raise UserError(
            f"flex_attention does not run this model: {str(error).splitlines()[0][:200]}; use model.attention=sdpa"
        ) from error
