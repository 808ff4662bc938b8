"""Nuisance variables of method.remove: length and likelihood of responses, regressed out of state differences."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
    d: Float[Tensor, "layer pair rank"], z: Float[Tensor, "pair nuisance"]
) -> tuple[Float[Tensor, "layer pair rank"], Float[Tensor, "layer pair rank"]]:
    """Return d_i - B z_i (least squares d_i = b + B z_i + e_i), and the intercept b fitted without each pair in turn.

    The mean of the first is b: the difference that remains between responses of equal length (and likelihood). The
    second is exact: b_{-i} = b - [(Z^T Z)^-1 z_i]_0 e_i / (1 - h_i), with leverages h_i. A nuisance that does not vary
    has no effect (pseudo-inverse).
    """
    design = torch.cat([torch.ones_like(z[:, :1]), z], dim=1)
    inverse = torch.linalg.pinv(design)  # coefficient, pair
    coefficients = inverse @ d
    rest = d - design[:, 1:] @ coefficients[:, 1:]
    error = rest - coefficients[:, :1]
    leverage = (design * inverse.T).sum(1).clamp(max=1.0 - 1e-6)
    without = coefficients[:, :1] - (inverse[0] / (1.0 - leverage))[:, None] * error
    return rest, without
