"""svd: the directions in which chosen and rejected states differ most (top) or least (bottom), labels unseen."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.methods.transforms.transform import FitInputs, Transform, count_of, freeze

# Squared singular values below this fraction of the largest are rounding: no pair differs there at all.
EMPTY = 1e-12


def principal_rows(d: Float[Tensor, "pair hidden"], rank: int, end: str) -> Float[Tensor, "rank hidden"]:
    """Return the right-singular vectors of d with the largest or smallest singular values, in that order.

    Directions in which no pair differs (there are some where pairs are fewer than dimensions) come last for both ends:
    in them every difference is 0, so they could tell nothing apart.
    """
    values, columns = torch.linalg.eigh(d.T @ d)  # ascending
    filled = int((values > EMPTY * values[-1]).sum())
    rows = columns.T.flip(0)
    ordered = rows if end == "top" else torch.cat([rows[:filled].flip(0), rows[filled:]])
    return ordered[:rank]


def fit(inputs: FitInputs, method: MethodConfig) -> Transform:
    """Return the top or bottom principal subspace of the reference differences (not centred: the mean is in it)."""
    rank = count_of(method.subspace.rank, inputs.hidden, "rank")
    rows = [principal_rows(d, rank, method.subspace.svd_end) for d in inputs.differences]
    return freeze("svd", torch.stack(rows))
