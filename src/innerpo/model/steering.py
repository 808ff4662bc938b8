"""Steering: add a vector to the residual stream at chosen blocks and every token during forward passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from innerpo.errors import UserError
from innerpo.model.forward.blocks import decoder_blocks, state_of


@dataclass(frozen=True)
class SteeringVector:
    """One vector per block, in units of the residual stream."""

    blocks: tuple[int, ...]
    vectors: Float[Tensor, "layer hidden"]


@contextmanager
def steered(model: nn.Module, vector: SteeringVector, coefficient: float) -> Iterator[None]:
    """Add ``coefficient * vectors[i]`` to the output of block ``blocks[i]`` at every token, prompt included.

    Every token, since llama.cpp and repeng apply an exported vector so. States read inside the context are the steered
    states. Raises UserError if the vectors do not have the model's width.
    """
    blocks = decoder_blocks(model)
    width = int(model.get_input_embeddings().embedding_dim)  # type: ignore[operator]
    if vector.vectors.shape[1] != width:
        raise UserError(
            f"the steering vectors have {vector.vectors.shape[1]} dimensions, the model's residual stream has {width}"
        )

    def hook_for(v: Float[Tensor, " hidden"]) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            state = state_of(output)
            moved = state + coefficient * v.to(state)
            return moved if isinstance(output, Tensor) else (moved, *output[1:])

        return hook

    handles = [
        blocks[block].register_forward_hook(hook_for(v)) for block, v in zip(vector.blocks, vector.vectors, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
