"""The top components of the state differences: what pairs differ in most, whatever it is. A control."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.subspaces.subspace import Kind, SubspaceInputs, top_components, towards_chosen


def _top(x: SubspaceInputs) -> Float[Tensor, "layer hidden column"]:
    """Return the first ``rank`` principal components of d, each pointing towards chosen on average."""
    return towards_chosen(top_components(x.d, x.rank), x.d)


top = Kind(_top)
