"""ether: the first k rows of a product of block-diagonal Householder reflections, chosen by the subspace fit.

After ETHER (Bini et al. 2024, arXiv 2405.20271), which multiplies weights by one block-diagonal reflection.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from innerpo.config.method import MethodConfig
from innerpo.errors import UserError
from innerpo.methods.transforms.reflections import reflect_blocks
from innerpo.methods.transforms.subspace_fit import learn_basis
from innerpo.methods.transforms.transform import FitInputs, Transform, count_of, freeze


class BlockReflections(nn.Module):
    """The basis E_k B_1 B_2 ... B_m; each B_j is block-diagonal with blocks I - 2 v v^T, E_k keeps the first k rows.

    Blocks of B_1, B_3, ... are interleaved, those of B_2, B_4, ... contiguous. With contiguous blocks alone, as in
    ETHER (which keeps all rows), the first k rows would only read the coordinates of the first blocks.
    """

    def __init__(self, v: Float[Tensor, "layer reflection block width"], rank: int) -> None:
        super().__init__()
        self.v = nn.Parameter(v)
        self.rank = rank

    def forward(self) -> Float[Tensor, "layer rank hidden"]:
        """Return the basis of every layer."""
        layers, reflections, n_blocks, width = self.v.shape
        first = torch.eye(n_blocks * width, dtype=self.v.dtype, device=self.v.device)[: self.rank]
        basis = first.expand(layers, -1, -1)
        for j in range(reflections):
            basis = reflect_blocks(basis, self.v[:, j], interleaved=j % 2 == 0)
        return basis


def check_blocks(blocks: int, hidden: int) -> None:
    """Raise UserError where a number of blocks does not divide the hidden size."""
    if hidden % blocks:
        fitting = ", ".join(str(n) for n in range(1, min(hidden, 64) + 1) if hidden % n == 0)
        raise UserError(
            f"method.subspace.ether_blocks={blocks} does not divide the hidden size {hidden}; these do: {fitting}"
        )


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:
    """Fit the reflections from a seeded random start and freeze their basis.

    Raises UserError where ``ether_blocks`` does not divide the hidden size.
    """
    options, hidden = method.subspace, inputs.hidden
    rank, blocks = count_of(options.rank, hidden, "rank"), options.ether_blocks
    check_blocks(blocks, hidden)
    shape = (len(inputs.layers), options.reflections, blocks, hidden // blocks)
    v = torch.randn(shape, generator=inputs.generator("ether"), dtype=torch.float64)
    return freeze("ether", learn_basis("ether", BlockReflections(v, rank), inputs, options))
