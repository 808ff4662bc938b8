"""hra: the first k rows of a chain of r Householder reflections, chosen by the subspace fit.

After Householder reflection adaptation (Yuan et al. 2024, arXiv 2405.17484).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from innerpo.config.method import MethodConfig
from innerpo.methods.transforms.reflections import reflect
from innerpo.methods.transforms.subspace_fit import learn_basis
from innerpo.methods.transforms.transform import FitInputs, Transform, count_of, freeze


class ReflectionChain(nn.Module):
    """The basis E_k H_1 H_2 ... H_r with H_j = I - 2 v_j v_j^T; E_k keeps the first k rows.

    With r reflections the spanned subspace differs from the first k coordinates in at most r dimensions.
    """

    def __init__(self, v: Float[Tensor, "layer reflection hidden"], rank: int) -> None:
        super().__init__()
        self.v = nn.Parameter(v)
        self.rank = rank

    def forward(self) -> Float[Tensor, "layer rank hidden"]:
        """Return the basis of every layer."""
        layers, reflections, hidden = self.v.shape
        basis = torch.eye(hidden, dtype=self.v.dtype, device=self.v.device)[: self.rank].expand(layers, -1, -1)
        for j in range(reflections):
            basis = reflect(basis, self.v[:, j])
        return basis


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:
    """Fit the reflections from a seeded random start and freeze their basis."""
    options = method.subspace
    rank = count_of(options.rank, inputs.hidden, "rank")
    shape = (len(inputs.layers), options.reflections, inputs.hidden)
    v = torch.randn(shape, generator=inputs.generator("hra"), dtype=torch.float64)
    return freeze("hra", learn_basis("hra", ReflectionChain(v, rank), inputs, options))
