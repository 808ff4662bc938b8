"""The inner term: chosen and rejected states should be further apart along the direction than the reference's."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.methods.directions.direction import direction_sees_labels
from innerpo.methods.records import Term, TermInputs


def margin(
    delta: Float[Tensor, "layer pair rank"],
    d: Float[Tensor, "layer pair rank"],
    w: Float[Tensor, "layer pair rank"],
    scale: Float[Tensor, " layer"],
    layer_weights: Float[Tensor, " layer"],
) -> Float[Tensor, " pair"]:
    """Return m_i = sum_l a_l <delta_{l,i} - d_{l,i}, w_l> / sigma_l, in standard deviations of the reference.

    0 at the reference. A swap of the labels (w fixed) changes its sign; rescaling a layer or rotating its basis changes
    nothing.
    """
    along = ((delta - d) * w).sum(-1)
    return (layer_weights / scale) @ along


def inner_loss(m: Float[Tensor, " pair"], method: MethodConfig) -> Float[Tensor, " pair"]:
    """Return max(0, tau - m)^2 (hinge), softplus(-beta_h m) (logistic) or -min(m, tau) (linear)."""
    if method.inner == "hinge":
        return F.relu(method.tau - m).square()
    if method.inner == "logistic":
        return F.softplus(-method.beta_h * m)
    return -torch.clamp(m, max=method.tau)


def margin_of(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return the margin of each pair of a batch."""
    assert x.directions is not None
    return margin(x.policy.difference, x.reference.difference, x.w, x.directions.scale, x.directions.layer_weights)


def _inner(x: TermInputs) -> Float[Tensor, " pair"]:
    return inner_loss(margin_of(x), x.method)


inner = Term(_inner, needs="states", sees_labels=direction_sees_labels)
