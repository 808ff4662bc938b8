"""The notes on training pairs, and what they are made from."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.config.method import MethodConfig


@dataclass(frozen=True)
class PairNotes:
    """Per training pair: ``offset`` b_i, logits in favour of chosen that are explained already; ``weight``, mean 1."""

    offset: Float[Tensor, " pair"]
    weight: Float[Tensor, " pair"]

    def select(self, indices: list[int]) -> "PairNotes":
        """Return the notes on some pairs."""
        return PairNotes(self.offset[indices], self.weight[indices])

    def swapped(self) -> "PairNotes":
        """Return the notes on the same pairs with chosen and rejected swapped: what spoke for one speaks against it."""
        return replace(self, offset=-self.offset)

    def to(self, device: torch.device) -> "PairNotes":
        """Return the notes on a device."""
        return PairNotes(self.offset.to(device), self.weight.to(device))

    def pin_memory(self) -> "PairNotes":
        """Return the notes in page-locked memory."""
        return PairNotes(self.offset.pin_memory(), self.weight.pin_memory())


@dataclass(frozen=True)
class NoteInputs:
    """What notes are made from, all of the reference model on the training pairs.

    ``d`` holds the state differences (chosen minus rejected, after the transform); ``clusters`` numbers the prompt of
    each pair; ``length`` is the difference of log token counts; ``nuisance`` is what ``method.remove`` regresses out of
    the directions. ``seed`` is the training seed. ``d_mis`` are the differences of the same responses behind another
    pair's prompt, None unless the direction needs them.
    """

    d: Float[Tensor, "layer pair rank"]
    clusters: Int[Tensor, " pair"]
    length: Float[Tensor, " pair"]
    nuisance: Float[Tensor, "pair nuisance"] | None
    method: MethodConfig
    seed: int
    d_mis: Float[Tensor, "layer pair rank"] | None = None
