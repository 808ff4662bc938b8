"""The lda direction: the mean difference, multiplied by the inverse covariance of the differences (Fisher 1936)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from innerpo.methods.directions.clusters import clusters_by_size
from innerpo.methods.directions.direction import Direction, DirectionInputs, Fitted
from innerpo.methods.directions.nuisance import residuals


def lda_directions(
    d: Float[Tensor, "layer pair rank"],
    ridge: float,
    clusters: Int[Tensor, " pair"],
    nuisance: Float[Tensor, "pair nuisance"] | None = None,
) -> Fitted:
    """Return w_l = unit((S_l + rho_l I)^-1 mean d) and for each pair the same without its cluster.

    S is the scatter sum_i (d_i - mean)(d_i - mean)^T and rho = ridge * tr(S) / rank, so that rescaling a layer does not
    change w. With a nuisance, d is replaced by b + e_i of the regression d_i = b + B z_i + e_i. Leaving out a cluster
    is exact, regression included (Woodbury's identity), except that rho stays that of all pairs.
    """
    if nuisance is not None:
        d = residuals(d, nuisance, clusters)[0]
        nuisance = nuisance / (nuisance - nuisance.mean(0)).norm(dim=0).clamp(min=1e-12)
    found = [_one_layer(x, ridge, clusters, nuisance) for x in d]
    return torch.stack([w for w, _ in found]), torch.stack([left for _, left in found])


def _one_layer(
    d: Float[Tensor, "pair rank"],
    ridge: float,
    clusters: Int[Tensor, " pair"],
    nuisance: Float[Tensor, "pair nuisance"] | None,
) -> tuple[Float[Tensor, " rank"], Float[Tensor, "pair rank"]]:
    rank = d.shape[1]
    mean = d.mean(0)
    x = d - mean
    rho = (ridge * x.square().sum() / rank).maximum(1e-12 * mean.square().sum()).clamp(min=1e-200)
    scatter = x.T @ x + rho * torch.eye(rank, dtype=d.dtype, device=d.device)
    solved = torch.cholesky_solve(torch.cat([mean[None], x]).T, torch.linalg.cholesky(scatter)).T
    q, p = solved[0], solved[1:]  # A^-1 mean, A^-1 x_i
    without = torch.empty_like(d)
    for members in clusters_by_size(clusters):
        without[members] = _left_out(members, q, x, p, nuisance)[:, None]
    return normalize(q, dim=-1, eps=1e-150), normalize(without, dim=-1, eps=1e-150)  # only their directions matter


def _left_out(
    members: Int[Tensor, "cluster member"],
    q: Float[Tensor, " rank"],
    x: Float[Tensor, "pair rank"],
    p: Float[Tensor, "pair rank"],
    nuisance: Float[Tensor, "pair nuisance"] | None,
) -> Float[Tensor, "cluster rank"]:
    """Return A'^-1 mean' for each of some clusters of one size, primes for quantities without the cluster.

    With X the cluster's rows of x (size m), s their sum and a = N - m: mean' = mean - s / a and
    A' = A - X^T X - s s^T / a = A - X^T (I - 1 1^T / N)^-1 X. A nuisance z (centred) is regressed on x again: the
    intercept loses U^T G^-1 mean'(z) and the scatter U^T G^-1 U, with U = sum' z x^T and G = sum' z z^T.
    """
    n, m = len(x), members.shape[1]
    rows, solved = x[members], p[members]  # X and X A^-1
    left_side = (torch.eye(m, dtype=x.dtype, device=x.device) - 1.0 / n).expand(len(members), m, m)
    toward = q - solved.sum(1) / (n - m)
    if nuisance is not None:
        z = (nuisance - nuisance.mean(0))[members]
        total, everything = z.sum(1), nuisance - nuisance.mean(0)
        gram = everything.T @ everything - z.mT @ z - total[:, :, None] * total[:, None] / (n - m)
        again = [-z.mT @ part - total[:, :, None] * part.sum(1)[:, None] / (n - m) for part in (rows, solved)]
        mean = nuisance.mean(0) - total / (n - m)
        toward = toward - torch.einsum("ck,ckr->cr", _solve(gram, mean), again[1])
        rows, solved = (torch.cat(parts, 1) for parts in zip((rows, solved), again, strict=True))
        left_side = torch.nn.functional.pad(left_side, (0, gram.shape[2], 0, gram.shape[2]))
        left_side[:, m:, m:] = gram
    small = _solve(left_side - rows @ solved.mT, torch.einsum("cvr,cr->cv", rows, toward))
    return toward + torch.einsum("cvr,cv->cr", solved, small)


def _solve(matrix: Float[Tensor, "cluster v v"], right: Float[Tensor, "cluster v"]) -> Float[Tensor, "cluster v"]:
    """Solve symmetric systems; what a matrix does not determine (a nuisance that does not vary) is 0."""
    inverse: Tensor = torch.linalg.pinv(matrix, atol=1e-12, rtol=1e-12, hermitian=True)
    return (inverse @ right[:, :, None])[:, :, 0]


def fit(x: DirectionInputs) -> Fitted:
    """Return the lda directions of the differences, what ``method.remove`` names regressed out."""
    return lda_directions(x.d, x.method.lda_ridge, x.clusters, x.nuisance)


lda = Direction(fit, remove=True)
