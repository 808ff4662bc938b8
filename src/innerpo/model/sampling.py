"""How a text is drawn from a model: greedily, or by temperature and top-p with noise that a seed and a prompt fix."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.errors import UserError

Processor = Callable[[Tensor, Tensor], Tensor]
"""Ids so far (row x token) and next-token scores (row x vocabulary) to new scores, as transformers calls them."""


@dataclass(frozen=True)
class Sampling:
    """How texts are drawn. The same record, prompts and weights give the same texts."""

    max_new_tokens: int = 128
    """Longest text, in tokens."""
    sample: bool = False
    """Draw each token at random; else the most likely one is taken (greedy)."""
    temperature: float = 1.0
    """Logits are divided by it before drawing."""
    top_p: float = 1.0
    """Draw from the fewest tokens whose probabilities add up to this share."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0.0 < self.temperature < float("inf"):
            raise UserError(f"temperature must be a number above 0, got {self.temperature} (without sample: greedy)")
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"top_p must lie above 0 and at most 1, got {self.top_p}")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, got {self.seed}")

    def processors(self, keys: Sequence[str]) -> list[Any]:
        """Return what transformers' greedy search applies to the scores of each step; ``keys`` name the rows."""
        if not self.sample:
            return []
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        found: list[Any] = [TemperatureLogitsWarper(self.temperature)] if self.temperature != 1.0 else []
        if self.top_p < 1.0:
            found.append(TopPLogitsWarper(self.top_p))
        return [*found, GumbelNoise(self.seed, keys)]


class GumbelNoise:
    """Adds Gumbel noise to the scores, so that the largest sum is a draw from their softmax (the Gumbel-max trick).

    Every row has a generator of its own, seeded by the seed and the row's key. What a row draws therefore depends
    neither on the other rows of its batch nor on the batch's size, and rows with one key (base and policy on a prompt)
    draw with the same noise: where they give the same probabilities, they write the same token.
    """

    def __init__(self, seed: int, keys: Sequence[str]) -> None:
        self.generators = [torch.Generator().manual_seed(seed_of(seed, key)) for key in keys]

    def __call__(
        self, input_ids: Int[Tensor, "row token"], scores: Float[Tensor, "row vocabulary"]
    ) -> Float[Tensor, "row vocabulary"]:
        """Return scores + g, g = -log E, E exponentially distributed with mean 1, one draw per row and token."""
        draws = [torch.empty(scores.shape[1]).exponential_(generator=g) for g in self.generators]
        return scores.float() - torch.stack(draws).clamp_min(1e-30).log().to(scores.device)


def seed_of(seed: int, key: str) -> int:
    """Return a seed of 63 bits made of a seed and a text."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big") >> 1
