"""Find out by trying whether a model honours one-row batches (4-D masks and restarted positions)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from innerpo.data.batch import Layout, make_batch
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.model.layers import decoder_blocks
from innerpo.model.outputs import SequenceOutputs, StateRequest, layer_kinds, sequence_outputs

# Largest difference between the layouts that rounding explains: of log-probabilities, nats per token, and of pooled
# states, whose components have a root mean square of about 1. A model that lets the rejected response see the chosen
# one, or counts its positions onward, is off by 0.1 or more.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}


@dataclass(frozen=True)
class LayoutChoice:
    """The layout in use and why, for the log."""

    layout: Layout
    reason: str


def choose_layout(
    model: nn.Module,
    items: Sequence[PromptItem],
    pad_id: int,
    wanted: Literal["auto", "one_row", "concatenated"] = "auto",
) -> LayoutChoice:
    """Return ``one_row`` where one batch gives the same numbers both ways, else ``concatenated``.

    Raises UserError where ``one_row`` is asked for and the model does not honour it.
    """
    if wanted == "concatenated":
        return LayoutChoice("concatenated", "as asked for")
    unknown = set(layer_kinds(model)) - {"full_attention", "sliding_attention"}
    if unknown:
        difference, reason = float("inf"), f"the model has layers of kind {', '.join(sorted(unknown))}"
    else:
        difference, reason = _difference(model, items[:2], pad_id)
    honoured = difference <= TOLERANCE.get(next(model.parameters()).dtype, TOLERANCE[torch.bfloat16])
    if wanted == "one_row" and not honoured:
        raise UserError(
            f"data.layout=one_row gives other numbers than one response a row ({reason}); "
            "use --data.layout=concatenated"
        )
    return LayoutChoice("one_row" if honoured else "concatenated", reason)


@torch.no_grad()
def _difference(model: nn.Module, items: Sequence[PromptItem], pad_id: int) -> tuple[float, str]:
    device = next(model.parameters()).device
    request = StateRequest((len(decoder_blocks(model)) - 1,))
    was_training = model.training
    model.eval()
    outputs: list[SequenceOutputs] = []
    try:
        for layout in ("one_row", "concatenated"):
            batch = make_batch(items, layout, pad_id).to(device)
            outputs.append(sequence_outputs(model, batch, request))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        return float("inf"), f"the model refuses such a batch: {str(error).splitlines()[0][:120]}"
    finally:
        model.train(was_training)
    a, b = outputs
    assert a.pooled is not None
    assert b.pooled is not None
    logps = ((a.logps - b.logps).abs() / a.n_tokens).max().item()
    pooled = (a.pooled - b.pooled).abs().max().item()
    return max(logps, pooled), (
        f"compared one batch both ways: log-probs differ by {logps:.1e} nats a token, pooled states by {pooled:.1e}"
    )
