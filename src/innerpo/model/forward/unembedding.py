"""The unembedding z = W_U norm(h) of a decoder, found by module types and not by names."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from innerpo.data.batching.batch import TokenBatch
from innerpo.errors import UserError
from innerpo.model.base import reference_mode
from innerpo.model.forward.blocks import decoder_blocks, state_of
from innerpo.model.forward.outputs import sequence_outputs

VOCABULARY_CHUNK = 8192
"""Rows of W_U converted to float64 at once, so that a large matrix is never held in float64 as a whole."""


@dataclass(frozen=True)
class Unembedding:
    """W_U as stored (tied to the embedding or not), and the model's final norm in float32."""

    weight: Float[Tensor, "vocab hidden"]
    norm: nn.Module

    @classmethod
    def of(cls, model: Any) -> "Unembedding":
        """Return a model's unembedding. Raises UserError if it has no floating-point head or no final norm."""
        weight = getattr(model.get_output_embeddings(), "weight", None)
        if weight is None or not weight.is_floating_point():
            raise UserError(f"{type(model).__name__} has no unembedding matrix in a floating-point type to read")
        return cls(weight.detach(), copy.deepcopy(final_norm(model)).float())

    @torch.no_grad()
    def gram(self) -> Float[Tensor, "hidden hidden"]:
        """Return M^T M in float64, where z = M u are the logits of a state u of unit rms: M = W_U diag(gain).

        The gain is measured by applying the norm (Gemma's is 1 + weight). If the norm subtracts the mean (GPT-2), M
        includes the subtraction. The eigenvectors are M's right-singular vectors, so no V x H decomposition is needed.
        """
        hidden, device = self.weight.shape[1], self.weight.device
        up = torch.ones(hidden, device=device)
        up[1::2] = -1.0  # mean 0 and rms 1: neither kind of norm changes it but for its gain and bias
        gain = ((self.norm(up) - self.norm(-up)) * up).double() / 2.0
        total = torch.zeros(hidden, hidden, dtype=torch.float64, device=device)
        for rows in torch.split(self.weight, VOCABULARY_CHUNK):
            scaled = rows.double() * gain
            total += scaled.T @ scaled
        if torch.allclose(self.norm(up + 1.0), self.norm(up), atol=1e-4):
            total = total - total.mean(0)
            total = total - total.mean(1, keepdim=True)
        return total

    @torch.no_grad()
    def suppressed(
        self, before: Float[Tensor, "token hidden"], after: Float[Tensor, "token hidden"]
    ) -> Float[Tensor, "token hidden"]:
        """Return W_U^T min(dz, 0), dz = W_U (norm(after) - norm(before)): the logits a block lowered, mapped back."""
        change = self.norm(after.float()) - self.norm(before.float())
        total = torch.zeros_like(change)
        for rows in torch.split(self.weight, VOCABULARY_CHUNK):
            total += (change @ rows.float().T).clamp(max=0.0) @ rows.float()
        return total


def final_norm(model: nn.Module) -> nn.Module:
    """Return the norm between last block and head: the last norm beside the list of decoder blocks."""
    blocks = decoder_blocks(model)
    for module in model.modules():
        children = list(module.children())
        if any(child is blocks for child in children):
            found = [child for child in children if "norm" in type(child).__name__.lower()]
            if found:
                return found[-1]
    raise UserError(f"found no final norm beside the decoder blocks of {type(model).__name__}")


def block_states(
    model: Any, batch: TokenBatch, layers: Sequence[int]
) -> list[tuple[Float[Tensor, "token hidden"], Float[Tensor, "token hidden"]]]:
    """Return the residual stream before and after each block at the completion tokens, adapter off, no gradient."""
    with reference_mode(model), _read_inputs_and_outputs(model, batch, layers) as found:
        sequence_outputs(model, batch)
    return [found[layer] for layer in layers]


@contextmanager
def _read_inputs_and_outputs(model: Any, batch: TokenBatch, layers: Sequence[int]) -> Iterator[dict[int, Any]]:
    found: dict[int, Any] = {}

    def hook_for(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = state_of(output)
            found[layer] = tuple(h.flatten(0, 1)[batch.completion] for h in (before, after))

        return hook

    blocks = decoder_blocks(model)
    handles = [blocks[layer].register_forward_hook(hook_for(layer), with_kwargs=True) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
