"""Steering: add a vector to the residual stream at chosen blocks and every token during forward passes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from innerpo.errors import UserError
from innerpo.model.forward.blocks import outputs_changed, text_config


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
    width = int(text_config(model).hidden_size)  # an embedding may be narrower
    if vector.vectors.shape[1] != width:
        raise UserError(
            f"the steering vectors have {vector.vectors.shape[1]} dimensions, the model's residual stream has {width}"
        )

    def move_by(v: Float[Tensor, " hidden"]) -> Callable[[Tensor], Tensor]:
        return lambda state: state + coefficient * v.to(state)

    moves = {block: move_by(v) for block, v in zip(vector.blocks, vector.vectors, strict=True)}
    with outputs_changed(model, moves):
        yield
