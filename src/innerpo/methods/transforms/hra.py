"""hra: the first k rows of a chain of r Householder reflections (arXiv 2405.17484), learned by a probe."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from innerpo.config.method import MethodConfig
from innerpo.methods.transforms.reflections import reflect
from innerpo.methods.transforms.subspace_fit import learn_basis
from innerpo.methods.transforms.transform import FitInputs, Transform, count_of, freeze


class ReflectionChain(nn.Module):
    """Rows E_k H_1 H_2 ... H_r with H_j = I - 2 v_j v_j^T; E_k picks the first k coordinates.

    r reflections can turn at most r of the k rows' dimensions away from the first k coordinates.
    """

    def __init__(self, v: Float[Tensor, "layer reflection hidden"], rank: int) -> None:
        super().__init__()
        self.v = nn.Parameter(v)
        self.rank = rank

    def forward(self) -> Float[Tensor, "layer rank hidden"]:
        """Return the rows of every layer."""
        layers, reflections, hidden = self.v.shape
        rows = torch.eye(hidden, dtype=self.v.dtype, device=self.v.device)[: self.rank].expand(layers, -1, -1)
        for j in range(reflections):
            rows = reflect(rows, self.v[:, j])
        return rows


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:
    """Learn the reflections from a seeded random start, and freeze their rows."""
    options = method.subspace
    rank = count_of(options.rank, inputs.hidden, "rank")
    shape = (len(inputs.layers), options.reflections, inputs.hidden)
    v = torch.randn(shape, generator=inputs.generator(), dtype=torch.float64)
    return freeze("hra", learn_basis("hra", ReflectionChain(v, rank), inputs, options))
