"""The inner term: policy states should lie further apart along the preference direction than the reference's."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.methods.records import Term, TermInputs, direction_sees_labels


def margin(
    delta: Float[Tensor, "layer pair rank"],
    d: Float[Tensor, "layer pair rank"],
    w: Float[Tensor, "layer pair rank"],
    scale: Float[Tensor, " layer"],
    layer_weights: Float[Tensor, " layer"],
) -> Float[Tensor, " pair"]:
    """m_i = sum_l a_l <delta_{l,i} - d_{l,i}, w_l> / sigma_l, in standard deviations of the reference.

    0 at the reference. Odd under a swap of the labels (w fixed), unchanged by rescaling a layer or rotating its basis.
    """
    along = ((delta - d) * w).sum(-1)
    return (layer_weights / scale) @ along


def inner_loss(m: Float[Tensor, " pair"], method: MethodConfig) -> Float[Tensor, " pair"]:
    """hinge relu(tau - m)^2, logistic softplus(-beta_h m), or linear -min(m, tau)."""
    if method.inner == "hinge":
        return F.relu(method.tau - m).square()
    if method.inner == "logistic":
        return F.softplus(-method.beta_h * m)
    return -torch.clamp(m, max=method.tau)


def margin_of(x: TermInputs) -> Float[Tensor, " pair"]:
    """The margin of a batch."""
    assert x.directions is not None
    return margin(x.policy.difference, x.reference.difference, x.w, x.directions.scale, x.directions.layer_weights)


def _inner(x: TermInputs) -> Float[Tensor, " pair"]:
    return inner_loss(margin_of(x), x.method)


inner = Term(_inner, needs="states", sees_labels=direction_sees_labels)
