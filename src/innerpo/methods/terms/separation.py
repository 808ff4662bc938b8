"""The separation term: how much further apart the responses' states are, whichever is better. A control."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import Term, TermInputs, norm


def relative_separation(
    delta: Float[Tensor, "layer pair rank"],
    d: Float[Tensor, "layer pair rank"],
    layer_weights: Float[Tensor, " layer"],
) -> Float[Tensor, " pair"]:
    """sum_l a_l (|delta_l| / |d_l| - 1). A positive weight shrinks the separation, a negative one grows it.

    Blind to labels: swapping chosen and rejected changes nothing. Responses whose reference states are equal count 0.
    """
    size = norm(d)
    ratio = norm(delta) / size.clamp(min=1e-6)
    return layer_weights @ (ratio - 1.0).where(size > 1e-6, 0.0)


def _separation(x: TermInputs) -> Float[Tensor, " pair"]:
    assert x.directions is not None
    return relative_separation(x.policy.difference, x.reference.difference, x.directions.layer_weights)


separation = Term(_separation, needs="states", sees_labels=False)
