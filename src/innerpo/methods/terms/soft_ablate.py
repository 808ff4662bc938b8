"""The soft_ablate term: movement of the state difference within the cue, and in no other direction."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import Term, TermInputs


def movement_within(
    moved: Float[Tensor, "layer pair hidden"],
    basis: Float[Tensor, "layer hidden rank"],
    scale: Float[Tensor, " layer"],
    layer_weights: Float[Tensor, " layer"],
) -> Float[Tensor, " pair"]:
    """Return sum_l a_l |N_l^T moved_l|^2 / sigma_l^2, moved = delta - d; 0 at the reference.

    sigma_l is that of the margin (Directions.scale), the same unit whatever the cue, so that movement costs the same in
    a cue and in its control.
    """
    within = (moved @ basis).square().sum(-1)
    return (layer_weights / scale.square()) @ within


def _soft_ablate(x: TermInputs) -> Float[Tensor, " pair"]:
    assert x.directions is not None
    assert x.subspace is not None
    moved = x.transform.lift(x.policy.difference - x.reference.difference)
    return movement_within(moved, x.subspace.basis, x.directions.scale, x.directions.layer_weights)


soft_ablate = Term(_soft_ablate, needs="states", sees_labels=False)
