"""Preference directions, scales and layer weights, from the reference states of the training pairs."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.errors import UserError
from innerpo.methods.directions.lda import lda_directions
from innerpo.methods.directions.nuisance import residuals
from innerpo.methods.records import Directions, norm, unit

# A scale below this fraction of the differences' own size is a degenerate sample (identical pairs), not a unit.
SCALE_FLOOR = 1e-3


def estimate_directions(
    d: Float[Tensor, "layer pair rank"],
    token_spread: Float[Tensor, " layer"],
    method: MethodConfig,
    seed: int,
    nuisance: Float[Tensor, "pair nuisance"] | None = None,
) -> Directions:
    """Return w_l, sigma_l and a_l (design, section 3) for reference differences d_{l,i}.

    ``nuisance`` (nuisance.py) is regressed out of the differences before they are averaged; scale and accuracy are
    those of the differences as they are.

    sigma_l = std_i <d_i, w_{-i}> and acc_l = mean_i [<d_i, w_{-i}> > 0] (ties one half) use the leave-one-out mean
    (N mu - d_i) / (N - 1), so that a pair does not vouch for itself. Where no layer is better than chance, all layers
    weigh the same. Raises UserError for fewer than two pairs.
    """
    n = d.shape[1]
    if n < 2:
        raise UserError(f"preference directions need at least 2 training pairs, got {n}")
    d = d.double()
    own = {"pair": 1.0, "mix": method.mix}.get(method.direction, 0.0)
    shared, left_out = _shared(d, method, seed, nuisance)
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


def _shared(
    d: Float[Tensor, "layer pair rank"],
    method: MethodConfig,
    seed: int,
    nuisance: Float[Tensor, "pair nuisance"] | None,
) -> tuple[Float[Tensor, "layer rank"], Float[Tensor, "layer pair rank"]]:
    """Return the direction that all pairs share, and the one that all other pairs than i share."""
    n = d.shape[1]
    if method.direction == "random":
        generator = torch.Generator().manual_seed(seed)
        drawn = unit(torch.randn(d.mean(1).shape, generator=generator, dtype=torch.float64))
        return drawn, drawn[:, None].expand_as(d)
    without = None
    if nuisance is not None:
        d, without = residuals(d, nuisance.to(d))
    if method.direction == "lda":
        return lda_directions(d, method.lda_ridge)
    mean = d.mean(1)
    return unit(mean), unit((n * mean[:, None] - d) / (n - 1) if without is None else without)


def _layer_weights(accuracy: Float[Tensor, " layer"], method: MethodConfig) -> Float[Tensor, " layer"]:
    """a_l proportional to max(0, acc_l - 1/2), or uniform."""
    above = (accuracy - 0.5).clamp(min=0.0)
    if method.layer_weights == "uniform" or above.sum() == 0.0:
        return torch.full_like(accuracy, 1.0 / len(accuracy))
    return above / above.sum()
