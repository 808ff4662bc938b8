"""Preference directions, scales and layer weights, from the reference states of the training pairs."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.config import MethodConfig
from innerpo.errors import UserError
from innerpo.methods.records import Directions, norm, unit

# A scale below this fraction of the differences' own size is a degenerate sample (identical pairs), not a unit.
SCALE_FLOOR = 1e-3


def estimate_directions(
    d: Float[Tensor, "layer pair rank"],
    token_spread: Float[Tensor, " layer"],
    method: MethodConfig,
    seed: int,
) -> Directions:
    """Return w_l, sigma_l and a_l (design, section 3) for reference differences d_{l,i}.

    sigma_l = std_i <d_i, w_{-i}> and acc_l = mean_i [<d_i, w_{-i}> > 0] (ties one half) use the leave-one-out mean
    (N mu - d_i) / (N - 1), so that a pair does not vouch for itself. Where no layer is better than chance, all layers
    weigh the same. Raises UserError for fewer than two pairs.
    """
    n = d.shape[1]
    if n < 2:
        raise UserError(f"preference directions need at least 2 training pairs, got {n}")
    d = d.double()
    mean = d.mean(1)
    own = {"pair": 1.0, "mix": method.mix}.get(method.direction, 0.0)
    if method.direction == "random":
        generator = torch.Generator().manual_seed(seed)
        shared = unit(torch.randn(mean.shape, generator=generator, dtype=torch.float64))
        left_out = shared[:, None].expand_as(d)
    else:
        shared = unit(mean)
        left_out = unit((n * mean[:, None] - d) / (n - 1))
    w_of_pair = left_out if own == 0.0 else unit((1.0 - own) * left_out + own * unit(d))
    along = (d * w_of_pair).sum(-1)
    floor = SCALE_FLOOR * norm(d).square().mean(1).sqrt()
    accuracy = (along.sign() + 1.0).mean(1) / 2.0
    return Directions(
        w=shared.float(),
        scale=along.std(1).maximum(floor).float(),
        layer_weights=_layer_weights(accuracy, method).float(),
        accuracy=accuracy.float(),
        token_spread=token_spread,
        own=own,
    )


def _layer_weights(accuracy: Float[Tensor, " layer"], method: MethodConfig) -> Float[Tensor, " layer"]:
    """a_l proportional to max(0, acc_l - 1/2), or uniform."""
    above = (accuracy - 0.5).clamp(min=0.0)
    if method.layer_weights == "uniform" or above.sum() == 0.0:
        return torch.full_like(accuracy, 1.0 / len(accuracy))
    return above / above.sum()
