"""A random unit vector, independent of the data: the control for every other direction."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.directions.direction import Direction, DirectionInputs, Fitted
from innerpo.methods.records import unit


def fit(x: DirectionInputs) -> Fitted:
    """Return a seeded random unit vector for each layer; it is the same with and without a prompt."""
    drawn = unit(torch.randn(x.d.mean(1).shape, generator=x.generator, dtype=torch.float64))
    return drawn, drawn[:, None].expand_as(x.d)


def draw(width: int, generator: torch.Generator) -> Float[Tensor, " width"]:
    """Return a seeded random vector for the outputs of a module."""
    return torch.randn(width, generator=generator)


random = Direction(fit, gradients=True, draw=draw)
