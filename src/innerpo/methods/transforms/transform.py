"""A transform: a linear map Q_l with orthonormal rows for each layer, fitted before training and then frozen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.methods.directions.clusters import cluster_numbers
from innerpo.methods.generators import generator_for


@dataclass(frozen=True)
class Transform:
    """A fitted transform. ``basis`` holds the orthonormal rows of Q_l for every layer; None is the identity.

    Q_l is linear, so it is applied to pooled states and not to every token.
    """

    name: str
    basis: Float[Tensor, "layer rank hidden"] | None = None

    def __call__(self, states: Float[Tensor, "layer seq hidden"]) -> Float[Tensor, "layer seq rank"]:
        """Return Q_l s for every layer."""
        if self.basis is None:
            return states
        return states @ self.basis.to(states).transpose(1, 2)

    def to(self, device: torch.device) -> "Transform":
        """Return the transform on a device."""
        return self if self.basis is None else replace(self, basis=self.basis.to(device))

    def lift(self, w: Float[Tensor, "layer seq rank"]) -> Float[Tensor, "layer seq hidden"]:
        """Return Q_l^T w: a direction of the transformed space as a direction of the model's states, norm unchanged."""
        return w if self.basis is None else w @ self.basis.to(w)


IDENTITY = Transform("none")


@dataclass(frozen=True)
class FitInputs:
    """What a transform is fitted on: reference states of the training pairs, and the frozen base model.

    ``pooled`` alternates chosen and rejected responses: sequence 2i is pair i's chosen response, 2i + 1 its rejected
    one. ``layers`` are the indices of the decoder blocks. ``items`` are the same pairs as tokens, for a transform that
    runs the model itself; ``layout`` and ``pad_id`` say how they become rows of a batch.
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
        """d_l (chosen minus rejected) of every training pair, in float64."""
        pooled = self.pooled.detach().double()
        return pooled[:, 0::2] - pooled[:, 1::2]

    @property
    def clusters(self) -> Int[Tensor, " pair"]:
        """The prompt of every training pair as a number; without ``items``, a prompt of its own for each."""
        return cluster_numbers(self.items) if self.items else torch.arange(self.pooled.shape[1] // 2)

    @property
    def hidden(self) -> int:
        """Size of a state."""
        return int(self.pooled.shape[2])

    @property
    def device(self) -> torch.device:
        """Where to compute in float64: the model's device, or the CPU where that device has no float64 (mps)."""
        found = next((p.device for p in self.model.parameters()), None) if self.model is not None else None
        return torch.device("cpu") if found is None or found.type == "mps" else found

    def generator(self, name: str) -> torch.Generator:
        """Return a new random generator for the training seed and a use of it, independent of all other uses."""
        return generator_for(self.seed, f"transform/{name}")


def count_of(value: float, hidden: int, field: str) -> int:
    """Return a number of directions from a fraction of the hidden size (at least 1) or from a whole number.

    Raises UserError where it exceeds the hidden size.
    """
    count = max(1, round(value * hidden)) if value < 1 else int(value)
    if count > hidden:
        raise UserError(f"method.subspace.{field} is {count}, but the model's states have only {hidden} dimensions")
    return count


def freeze(name: str, basis: Float[Tensor, "layer rank hidden"]) -> Transform:
    """Return the transform of a fitted basis: detached, in float32, on the CPU."""
    return Transform(name, basis.detach().float().cpu().contiguous())
