"""The angle term: the policy's difference should point along the preference direction."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.directions.direction import direction_sees_labels
from innerpo.methods.records import Term, TermInputs, norm


def angle_loss(
    delta: Float[Tensor, "layer pair rank"],
    w: Float[Tensor, "layer pair rank"],
    layer_weights: Float[Tensor, " layer"],
) -> Float[Tensor, " pair"]:
    """Return sum_l a_l (1 - cos(delta_l, w_l)): 0 when aligned, 2 when opposed, 1 for a zero difference."""
    cosine = (delta * w).sum(-1) / norm(delta)
    return layer_weights @ (1.0 - cosine)


def _angle(x: TermInputs) -> Float[Tensor, " pair"]:
    assert x.directions is not None
    return angle_loss(x.policy.difference, x.w, x.directions.layer_weights)


angle = Term(_angle, needs="states", sees_labels=direction_sees_labels)
