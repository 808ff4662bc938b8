"""svd: the directions in which chosen and rejected states differ most (top) or least (bottom), whichever is chosen."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.methods.transforms.transform import FitInputs, Transform, count_of, freeze

# Squared singular values below this fraction of the largest are rounding errors: no pair differs in that direction.
EMPTY = 1e-12


def principal_basis(d: Float[Tensor, "pair hidden"], rank: int, end: str) -> Float[Tensor, "rank hidden"]:
    """Return the right-singular vectors of d with the largest or smallest singular values, in that order.

    Directions in which no pair differs (they exist where pairs are fewer than dimensions) come last for both ends,
    since nothing can be measured along them.
    """
    values, columns = torch.linalg.eigh(d.T @ d)  # ascending
    filled = int((values > EMPTY * values[-1]).sum())
    rows = columns.T.flip(0)
    ordered = rows if end == "top" else torch.cat([rows[:filled].flip(0), rows[filled:]])
    return ordered[:rank]


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:
    """Return the top or bottom principal subspace of the reference differences, which are not centred."""
    rank = count_of(method.subspace.rank, inputs.hidden, "rank")
    bases = [principal_basis(d, rank, method.subspace.svd_end) for d in inputs.differences]
    return freeze("svd", torch.stack(bases))
