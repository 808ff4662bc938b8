"""A transform Q_l: a linear map with orthonormal rows, one a layer, frozen towards the adapter's loss."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor


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

    def lift(self, w: Float[Tensor, "layer seq rank"]) -> Float[Tensor, "layer seq hidden"]:
        """Return Q_l^T w: a direction of the transformed space as one of the residual stream, of the same norm."""
        return w if self.rows is None else w @ self.rows.to(w)


IDENTITY = Transform("none")


@dataclass(frozen=True)
class FitInputs:
    """What a transform is fitted on: reference states of the training pairs, and the frozen base model."""

    pooled: Float[Tensor, "layer seq hidden"]
    layers: tuple[int, ...]
    model: Any
    seed: int
