"""The shared direction as a cue: all that the training pairs have in common, right feature and cue together."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.subspaces.subspace import Kind, SubspaceInputs


def _shared(x: SubspaceInputs) -> Float[Tensor, "layer hidden column"]:
    """Return mean_i d_i, one column."""
    return x.d.mean(1)[:, :, None]


shared = Kind(_shared)
