"""The separation term: relative distance between the two responses' states, whichever is chosen. A control."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import Term, TermInputs, norm


def relative_separation(
    delta: Float[Tensor, "layer pair rank"],
    d: Float[Tensor, "layer pair rank"],
    layer_weights: Float[Tensor, " layer"],
) -> Float[Tensor, " pair"]:
    """Return sum_l a_l (|delta_l| / |d_l| - 1); 0 where the two responses have equal reference states.

    A positive weight shrinks the separation, a negative one grows it. Swapping chosen and rejected does not change it.
    """
    size = norm(d)
    ratio = norm(delta) / size.clamp(min=1e-6)
    return layer_weights @ (ratio - 1.0).where(size > 1e-6, 0.0)


def _separation(x: TermInputs) -> Float[Tensor, " pair"]:
    assert x.directions is not None
    return relative_separation(x.policy.difference, x.reference.difference, x.directions.layer_weights)


separation = Term(_separation, needs="states", sees_labels=False)
