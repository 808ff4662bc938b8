"""The lda direction: the mean difference, multiplied by the inverse covariance of the differences (Fisher 1936)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from innerpo.methods.directions.direction import Direction, DirectionInputs, Fitted
from innerpo.methods.directions.nuisance import residuals


def lda_directions(
    d: Float[Tensor, "layer pair rank"], ridge: float
) -> tuple[Float[Tensor, "layer rank"], Float[Tensor, "layer pair rank"]]:
    """Return w_l = unit((S_l + rho_l I)^-1 mean d) and the same without each pair in turn.

    S is the scatter sum_i (d_i - mean)(d_i - mean)^T and rho = ridge * tr(S) / rank, so that rescaling a layer does not
    change w. Leaving out pair i is exact (Sherman-Morrison) except that rho stays that of all pairs.
    """
    found = [_one_layer(x, ridge) for x in d]
    return torch.stack([w for w, _ in found]), torch.stack([left for _, left in found])


def _one_layer(
    d: Float[Tensor, "pair rank"], ridge: float
) -> tuple[Float[Tensor, " rank"], Float[Tensor, "pair rank"]]:
    n, rank = d.shape
    mean = d.mean(0)
    x = d - mean
    rho = (ridge * x.square().sum() / rank).maximum(1e-12 * mean.square().sum()).clamp(min=1e-200)
    scatter = x.T @ x + rho * torch.eye(rank, dtype=d.dtype, device=d.device)
    solved = torch.cholesky_solve(torch.cat([mean[None], x]).T, torch.linalg.cholesky(scatter)).T
    q, p = solved[0], solved[1:]  # A^-1 mean, A^-1 x_i
    # Without i: mean_i = mean - x_i / (n - 1), and the scatter loses c x_i x_i^T with c = n / (n - 1).
    c, leverage = n / (n - 1), (x * p).sum(1)
    toward = q - p / (n - 1)
    correction = c * (x @ q - leverage / (n - 1)) / (1.0 - c * leverage)
    without = toward + correction[:, None] * p
    return normalize(q, dim=-1, eps=1e-150), normalize(without, dim=-1, eps=1e-150)  # only their directions matter


def fit(x: DirectionInputs) -> Fitted:
    """Return the directions of the differences, or of what the regression on the nuisance leaves of them."""
    d = x.d if x.nuisance is None else residuals(x.d, x.nuisance)[0]
    return lda_directions(d, x.method.lda_ridge)


lda = Direction(fit, remove=True)
