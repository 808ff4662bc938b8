"""ether: the first k rows of a product of block-diagonal reflections (arXiv 2405.20271), learned by a probe."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from innerpo.config.method import MethodConfig
from innerpo.errors import UserError
from innerpo.methods.transforms.reflections import reflect_blocks
from innerpo.methods.transforms.subspace_fit import learn_basis
from innerpo.methods.transforms.transform import FitInputs, Transform, count_of, freeze


class BlockReflections(nn.Module):
    """Rows E_k B_1 B_2 ... B_m, each B_j block-diagonal with blocks I - 2 v v^T; E_k picks the first k coordinates.

    Blocks of B_1, B_3, ... are interleaved, of B_2, B_4, ... contiguous. With contiguous blocks alone, as in ETHER
    (where all rows are kept), the first k rows would never read beyond the first blocks.
    """

    def __init__(self, v: Float[Tensor, "layer reflection block width"], rank: int) -> None:
        super().__init__()
        self.v = nn.Parameter(v)
        self.rank = rank

    def forward(self) -> Float[Tensor, "layer rank hidden"]:
        """Return the rows of every layer."""
        layers, reflections, n_blocks, width = self.v.shape
        rows = torch.eye(n_blocks * width, dtype=self.v.dtype, device=self.v.device)[: self.rank].expand(layers, -1, -1)
        for j in range(reflections):
            rows = reflect_blocks(rows, self.v[:, j], interleaved=j % 2 == 0)
        return rows


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:
    """Learn the reflections from a seeded random start, and freeze their rows."""
    options, hidden = method.subspace, inputs.hidden
    rank, blocks = count_of(options.rank, hidden, "rank"), options.ether_blocks
    if hidden % blocks:
        fitting = ", ".join(str(n) for n in range(1, min(hidden, 64) + 1) if hidden % n == 0)
        raise UserError(
            f"method.subspace.ether_blocks={blocks} does not divide the hidden size {hidden}; these do: {fitting}"
        )
    shape = (len(inputs.layers), options.reflections, blocks, hidden // blocks)
    v = torch.randn(shape, generator=inputs.generator(), dtype=torch.float64)
    return freeze("ether", learn_basis("ether", BlockReflections(v, rank), inputs, options))
