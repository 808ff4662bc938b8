"""Reroute and retain: move rejected states to the reference's chosen states, and keep the chosen states there.

After the rerouting and retain losses of circuit breakers (Zou et al. 2024, arXiv 2406.04313, section 3). They differ in
that reroute has a target state, that states are pooled, and that distances are squared: the gradient of a norm has unit
size and an arbitrary direction at the reference, that of a square is zero there.
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
    """Return sum_l a_l (|moved_l| / |d_l|)^2; 0 where the two responses have equal reference states."""
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
    """Return (|s_policy(y_r) - s_ref(y_c)| / |d|)^2: 1 at the reference, 0 at the target."""
    return _to_chosen(x, x.policy.rejected_states)


def _retain(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return (|s_policy(y_c) - s_ref(y_c)| / |d|)^2: 0 at the reference."""
    return _to_chosen(x, x.policy.chosen_states)


reroute = Term(_reroute, needs="states", sees_labels=True)
retain = Term(_retain, needs="states", sees_labels=True)
