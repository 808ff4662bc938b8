"""Preference directions, their scales and layer weights, from the reference states of the training pairs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.errors import UserError
from innerpo.methods.directions.direction import Direction, DirectionInputs, direction_of
from innerpo.methods.generators import generator_for
from innerpo.methods.records import Directions, norm, unit
from innerpo.registry import DIRECTIONS, resolve

# Lower limit of a scale, as a fraction of the differences' root mean square: identical pairs have no spread.
SCALE_FLOOR = 1e-3


def estimate_directions(
    d: Float[Tensor, "layer pair rank"],
    token_spread: Float[Tensor, " layer"],
    method: MethodConfig,
    seed: int,
    nuisance: Float[Tensor, "pair nuisance"] | None = None,
    clusters: Int[Tensor, " pair"] | None = None,
    d_mis: Float[Tensor, "layer pair rank"] | None = None,
) -> Directions:
    """Return w_l, sigma_l and a_l for reference differences d_{l,i}.

    sigma_l = std_i <d_i, w_{-i}> and acc_l = mean_i [<d_i, w_{-i}> > 0] (a tie counts one half), with w_{-i} the
    direction of pair i fitted without the pairs of its prompt. a_l is proportional to max(0, acc_l - 1/2), or uniform
    where the config says so or no layer is above chance; a direction without data (random) has the a_l of ``shared``,
    so that the control differs in the direction alone. ``nuisance`` is regressed out of the directions only; scale and
    accuracy are those of the differences themselves. ``d_mis`` are those of the same responses behind another pair's
    prompt, for the directions that need them. ``clusters`` numbers the prompt of each pair; None means a
    prompt of its own for each. Raises UserError for pairs of fewer than two prompts.
    """
    clusters = torch.arange(d.shape[1]) if clusters is None else clusters
    if (n := len(set(clusters.tolist()))) < 2:
        raise UserError(f"preference directions need training pairs of at least 2 prompts, got {n}")
    d = d.double()
    direction = direction_of(method)
    own = direction.own_share(method)
    generator = generator_for(seed, f"direction/{method.direction}")
    nuisance = None if nuisance is None else nuisance.to(d)
    d_mis = None if d_mis is None else d_mis.double()
    w, without = direction.fit(DirectionInputs(d, clusters.to(d.device), nuisance, method, generator, d_mis))
    w_of_pair = without if own == 0.0 else unit((1.0 - own) * without + own * unit(d))
    along = (d * w_of_pair).sum(-1)
    floor = SCALE_FLOOR * norm(d).square().mean(1).sqrt()
    accuracy = weighed = _accuracy(along)
    if direction.draw is not None:  # its own accuracy would choose the blocks where chance has put it along the labels
        shared: Direction = resolve(DIRECTIONS, "shared", "method.direction")
        x = DirectionInputs(d, clusters.to(d.device), nuisance, method, generator, d_mis)
        weighed = _accuracy((d * shared.fit(x)[1]).sum(-1))
    return Directions(
        w=w.float(),
        scale=along.std(1).maximum(floor).float(),
        layer_weights=_layer_weights(weighed, method).float(),
        accuracy=accuracy.float(),
        token_spread=token_spread,
        own=own,
    )


def _accuracy(along: Float[Tensor, "layer pair"]) -> Float[Tensor, " layer"]:
    """The share of pairs that lie along their direction; a tie counts one half."""
    return (along.sign() + 1.0).mean(1) / 2.0


def _layer_weights(accuracy: Float[Tensor, " layer"], method: MethodConfig) -> Float[Tensor, " layer"]:
    """Return a_l proportional to max(0, acc_l - 1/2), or uniform."""
    above = (accuracy - 0.5).clamp(min=0.0)
    if method.layer_weights == "uniform" or above.sum() == 0.0:
        return torch.full_like(accuracy, 1.0 / len(accuracy))
    return above / above.sum()
