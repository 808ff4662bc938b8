"""Movement along and across each block's direction, and its accuracy, from states of policy and reference."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.methods.records import Directions
from innerpo.methods.terms.drift import orthogonal_drift
from innerpo.model.base import Base, reference_mode
from innerpo.model.forward.outputs import StateRequest, sequence_outputs
from innerpo.model.forward.passes import batches


@torch.no_grad()
def measure(
    policy: Any,
    base: Base,
    items: Sequence[PromptItem],
    layout: Layout,
    request: StateRequest,
    directions: Directions,
    batch_size: int,
) -> dict[str, Float[Tensor, " layer"]]:
    """Run policy and reference over the same batches; return the mean over pairs of every measure, by block."""
    device = next(policy.parameters()).device
    known = directions.to(device)
    # A fully fine-tuned policy has no adapter to switch off; its reference is the base model itself.
    reference_model = policy if hasattr(policy, "disable_adapter") else base.model
    policy.eval()
    parts: dict[str, list[Tensor]] = {}
    what = "states of policy and reference"
    for _, batch in batches(items, layout, base.pad_id, batch_size, device, what):
        with reference_mode(reference_model):
            before = sequence_outputs(reference_model, batch, request)
        after = sequence_outputs(policy, batch, request)
        assert before.pooled is not None
        assert after.pooled is not None
        assert before.token_states is not None
        assert after.token_states is not None
        d, delta = (p[:, 0::2] - p[:, 1::2] for p in (before.pooled, after.pooled))
        cosine = F.cosine_similarity(after.pooled, before.pooled, dim=-1)
        batch_parts = {
            "along": along(delta, d, known),
            "across": across(after.token_states - before.token_states, batch.sequence, batch.n_tokens, known),
            "cosine": (cosine[:, 0::2] + cosine[:, 1::2]) / 2.0,
            "accuracy_before": right(d, known),
            "accuracy_after": right(delta, known),
        }
        for name, values in batch_parts.items():
            parts.setdefault(name, []).append(values.cpu())
    return {name: torch.cat(values, 1).mean(1) for name, values in parts.items()}


def along(
    delta: Float[Tensor, "layer pair hidden"], d: Float[Tensor, "layer pair hidden"], directions: Directions
) -> Float[Tensor, "layer pair"]:
    """<delta - d, w_l> / sigma_l: the margin of each block alone (methods/terms/inner.py)."""
    return ((delta - d) * directions.w[:, None]).sum(-1) / directions.scale[:, None]


def across(moved: Tensor, sequence: Tensor, n_tokens: Tensor, directions: Directions) -> Float[Tensor, "layer pair"]:
    """The drift of each block alone (methods/terms/drift.py)."""
    one = torch.ones(1, device=moved.device)
    by_block = []
    for block in range(len(moved)):
        w = directions.w[block : block + 1, None].expand(-1, len(n_tokens) // 2, -1)
        spread = directions.token_spread[block : block + 1]
        by_block.append(orthogonal_drift(moved[block : block + 1], w, sequence, n_tokens, spread, one))
    return torch.stack(by_block)


def right(d: Float[Tensor, "layer pair hidden"], directions: Directions) -> Float[Tensor, "layer pair"]:
    """1 where the chosen response lies further along the direction, 0 where the rejected one does, 1/2 for a tie."""
    return ((d * directions.w[:, None]).sum(-1).sign() + 1.0) / 2.0
