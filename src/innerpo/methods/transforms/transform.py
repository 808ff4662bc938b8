"""A transform Q_l: a linear map with orthonormal rows, one a layer, frozen towards the adapter's loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError


@dataclass(frozen=True)
class Transform:
    """Rows of Q_l per layer, or None for the identity. Linear, so pooled states are transformed, not tokens."""

    name: str
    rows: Float[Tensor, "layer rank hidden"] | None = None

    def __call__(self, states: Float[Tensor, "layer seq hidden"]) -> Float[Tensor, "layer seq rank"]:
        """Return Q_l s for every layer."""
        if self.rows is None:
            return states
        return states @ self.rows.to(states).transpose(1, 2)

    def to(self, device: torch.device) -> "Transform":
        """Return the transform on a device."""
        return self if self.rows is None else replace(self, rows=self.rows.to(device))

    def lift(self, w: Float[Tensor, "layer seq rank"]) -> Float[Tensor, "layer seq hidden"]:
        """Return Q_l^T w: a direction of the transformed space as one of the residual stream, of the same norm."""
        return w if self.rows is None else w @ self.rows.to(w)


IDENTITY = Transform("none")


@dataclass(frozen=True)
class FitInputs:
    """What a transform is fitted on: reference states of the training pairs, and the frozen base model.

    ``pooled`` has chosen and rejected responses in turn. ``items`` are the same pairs as tokens, for a transform that
    must run the model itself; ``layout`` and ``pad_id`` say how they become rows.
    """

    pooled: Float[Tensor, "layer seq hidden"]
    layers: tuple[int, ...]
    model: Any
    seed: int
    items: Sequence[PromptItem] = ()
    layout: Layout = "concatenated"
    pad_id: int = 0

    @property
    def differences(self) -> Float[Tensor, "layer pair hidden"]:
        """d_l of every training pair, in float64."""
        pooled = self.pooled.detach().double()
        return pooled[:, 0::2] - pooled[:, 1::2]

    @property
    def hidden(self) -> int:
        """Size of a state."""
        return int(self.pooled.shape[2])

    @property
    def device(self) -> torch.device:
        """Where to compute in float64: the model's device, or the CPU where that has no such type."""
        found = next((p.device for p in self.model.parameters()), None) if self.model is not None else None
        return torch.device("cpu") if found is None or found.type == "mps" else found

    def generator(self) -> torch.Generator:
        """Return a fresh random generator, seeded."""
        return torch.Generator().manual_seed(self.seed)


def count_of(value: float, hidden: int, field: str) -> int:
    """Return a number of directions: a fraction of the hidden size (at least 1), or the whole number itself.

    Raises UserError where it is more than there are.
    """
    count = max(1, round(value * hidden)) if value < 1 else int(value)
    if count > hidden:
        raise UserError(f"method.subspace.{field} is {count}, but the model's states have only {hidden} dimensions")
    return count


def freeze(name: str, rows: Float[Tensor, "layer rank hidden"]) -> Transform:
    """Return the transform of fitted rows: detached, in float32, on the CPU."""
    return Transform(name, rows.detach().float().cpu().contiguous())
