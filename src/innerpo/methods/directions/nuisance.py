"""Nuisance variables of method.remove: length and likelihood of responses, regressed out of state differences."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.methods.directions.clusters import clusters_by_size


def nuisance_of(
    names: Sequence[str], logps: Float[Tensor, " seq"], n_tokens: Int[Tensor, " seq"]
) -> Float[Tensor, "pair nuisance"]:
    """Return each pair's difference (chosen minus rejected) in the named variables.

    "length" is the log of the token count, "logprob" the mean log-probability in nats per token. ``logps`` (sums, in
    nats) and ``n_tokens`` alternate chosen and rejected responses.
    """
    length, mean_logp = n_tokens.double().log(), logps.double() / n_tokens
    known = {"length": length, "logprob": mean_logp}
    return torch.stack([known[name][0::2] - known[name][1::2] for name in names], dim=1)


def residuals(
    d: Float[Tensor, "layer pair rank"], z: Float[Tensor, "pair nuisance"], clusters: Int[Tensor, " pair"]
) -> tuple[Float[Tensor, "layer pair rank"], Float[Tensor, "layer pair rank"]]:
    """Return d_i - B z_i (least squares d_i = b + B z_i + e_i), and for each pair the intercept b without its cluster.

    The mean of the first is b: the difference that remains between responses of equal length (and likelihood). The
    second is exact: b_{-c} = b - [(Z^T Z)^-1 Z_c^T]_0 (I - H_cc)^-1 e_c, with the hat matrix H. A nuisance that does
    not vary has no effect (pseudo-inverse).
    """
    design = torch.cat([torch.ones_like(z[:, :1]), z], dim=1)
    inverse = torch.linalg.pinv(design)  # coefficient, pair
    coefficients = inverse @ d
    rest = d - design[:, 1:] @ coefficients[:, 1:]
    error = rest - coefficients[:, :1]
    without = torch.empty_like(d)
    for members in clusters_by_size(clusters):
        columns = inverse.T[members]  # cluster, member, coefficient
        hat = design[members] @ columns.mT
        kept = torch.eye(members.shape[1], dtype=d.dtype, device=d.device) - (hat + hat.mT) / 2.0
        factors = columns[:, None, :, 0] @ torch.linalg.pinv(kept, atol=1e-6, hermitian=True)
        without[:, members] = coefficients[:, :1, None] - factors @ error[:, members]
    return rest, without
