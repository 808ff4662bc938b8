"""random: k random orthonormal rows, independent of the data. The control for every other transform."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.methods.transforms.transform import FitInputs, Transform, count_of, freeze


def random_basis(inputs: FitInputs, rank: int, name: str) -> Float[Tensor, "layer rank hidden"]:
    """Return an orthonormal basis for each layer, uniformly distributed (Haar), in float64, from a named stream."""
    shape = (len(inputs.layers), inputs.hidden, rank)
    columns, r = torch.linalg.qr(torch.randn(shape, generator=inputs.generator(name), dtype=torch.float64))
    signs = r.diagonal(dim1=1, dim2=2).sign()[:, None]  # without this QR does not give the Haar measure
    basis: Tensor = (columns * signs).transpose(1, 2)
    return basis


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:
    """Return a random basis; neither states nor labels are used."""
    return freeze("random", random_basis(inputs, count_of(method.subspace.rank, inputs.hidden, "rank"), "random"))
