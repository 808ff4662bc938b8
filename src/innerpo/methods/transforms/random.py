"""random: k random orthonormal rows, which know nothing of the data. The control for every other transform."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.methods.transforms.transform import FitInputs, Transform, count_of, freeze


def random_rows(inputs: FitInputs, rank: int) -> Float[Tensor, "layer rank hidden"]:
    """Return orthonormal rows drawn uniformly by the seed, in float64; each layer has its own."""
    shape = (len(inputs.layers), inputs.hidden, rank)
    columns, r = torch.linalg.qr(torch.randn(shape, generator=inputs.generator(), dtype=torch.float64))
    signs = r.diagonal(dim1=1, dim2=2).sign()[:, None]  # else QR prefers some subspaces' bases (Haar measure)
    rows: Tensor = (columns * signs).transpose(1, 2)
    return rows


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:
    """Return random rows; no state and no label is looked at."""
    return freeze("random", random_rows(inputs, count_of(method.subspace.rank, inputs.hidden, "rank")))
