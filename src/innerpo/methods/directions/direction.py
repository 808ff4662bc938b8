"""What a preference direction is: how it is fitted, and what the rest of a method must know about it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.registry import DIRECTIONS, resolve


@dataclass(frozen=True)
class DirectionInputs:
    """What a direction is fitted on, all from the reference model.

    ``d`` holds the state differences (chosen minus rejected, after the transform) in float64. ``clusters`` numbers the
    prompt of each pair. ``nuisance`` holds what is to be regressed out of d (nuisance.py), None without
    ``method.remove``. ``generator`` is seeded. ``d_mis`` are the differences of the same responses behind another
    pair's prompt, None unless the direction is ``mismatched``.
    """

    d: Float[Tensor, "layer pair rank"]
    clusters: Int[Tensor, " pair"]
    nuisance: Float[Tensor, "pair nuisance"] | None
    method: MethodConfig
    generator: torch.Generator
    d_mis: Float[Tensor, "layer pair rank"] | None = None


Fitted = tuple[Float[Tensor, "layer rank"], Float[Tensor, "layer pair rank"]]
"""The unit direction of each layer, and for each pair the direction that is fitted without its prompt."""


@dataclass(frozen=True)
class Direction:
    """A named kind of preference direction.

    ``fit`` returns the direction that all pairs share, and for every pair the same fitted without the pairs of its
    prompt (clusters.py), which is used for estimates on the training pairs (scale, accuracy). ``own``, a number or a
    function of the config, is the share of the pair's own unit difference in the pair's direction:
    unit((1 - own) w + own unit(d_i)). With own = 1 a swap of chosen and rejected flips the direction too, so terms on
    it do not depend on the label.

    ``remove``: ``fit`` uses ``nuisance``. ``gradients``: gradient methods may use it; at each module they take the mean
    difference of its outputs, or what ``draw`` returns for (width, generator), which needs no data. ``mismatched``:
    ``fit`` reads ``d_mis``, so the reference must also be run on the mismatched companions (data/companions.py).
    """

    fit: Callable[[DirectionInputs], Fitted]
    own: Callable[[MethodConfig], float] | float = 0.0
    remove: bool = False
    gradients: bool = False
    draw: Callable[[int, torch.Generator], Float[Tensor, " width"]] | None = None
    mismatched: bool = False

    def own_share(self, method: MethodConfig) -> float:
        """Return the share of the pair's own difference, 0 to 1."""
        return self.own(method) if callable(self.own) else self.own


def direction_of(method: MethodConfig) -> Direction:
    """Return the direction that a method's config names."""
    found: Direction = resolve(DIRECTIONS, method.direction, "method.direction")
    return found


def direction_sees_labels(method: MethodConfig) -> bool:
    """Whether swapping a pair's labels leaves its direction where it was, so that terms along it see the label."""
    return direction_of(method).own_share(method) != 1.0


def direction_is_a_mix(method: MethodConfig) -> bool:
    """Whether swapping a pair's labels changes the axis of its direction, and not at most its sign."""
    return 0.0 < direction_of(method).own_share(method) < 1.0
