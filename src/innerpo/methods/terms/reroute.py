"""Reroute and retain: move rejected states to where chosen ones are, and leave those where they are.

After circuit breakers (Zou et al. 2024, arXiv 2406.04313, section 3: rerouting loss and retain loss), with a target
in place of "away from here", on pooled states, and squared: at the reference a norm's gradient would have full size
in whatever direction rounding points, a square's is zero there.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import Term, TermInputs, norm


def relative_distance(
    moved: Float[Tensor, "layer pair rank"],
    d: Float[Tensor, "layer pair rank"],
    layer_weights: Float[Tensor, " layer"],
) -> Float[Tensor, " pair"]:
    """sum_l a_l (|moved_l| / |d_l|)^2. Responses whose reference states are equal count 0."""
    size = norm(d)
    ratio = norm(moved) / size.clamp(min=1e-6)
    return layer_weights @ ratio.square().where(size > 1e-6, 0.0)


def _to_chosen(x: TermInputs, states: Tensor | None) -> Float[Tensor, " pair"]:
    assert x.directions is not None
    target = x.reference.chosen_states
    assert isinstance(states, torch.Tensor)
    assert target is not None
    return relative_distance(states - target, x.reference.difference, x.directions.layer_weights)


def _reroute(x: TermInputs) -> Float[Tensor, " pair"]:
    """(|s_policy(y_r) - s_ref(y_c)| / |d|)^2: 1 at the reference, 0 where rejected has arrived at chosen."""
    return _to_chosen(x, x.policy.rejected_states)


def _retain(x: TermInputs) -> Float[Tensor, " pair"]:
    """(|s_policy(y_c) - s_ref(y_c)| / |d|)^2: 0 at the reference."""
    return _to_chosen(x, x.policy.chosen_states)


reroute = Term(_reroute, needs="states", sees_labels=True)
retain = Term(_retain, needs="states", sees_labels=True)
