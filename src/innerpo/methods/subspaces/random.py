"""A random subspace within the top components: the control for every other cue of the same rank."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.subspaces.subspace import Kind, SubspaceInputs, top_components

COMPONENTS = 32
"""Components within which the subspace is drawn: beyond them states hardly differ, and nothing would be taken away."""


def _random(x: SubspaceInputs) -> Float[Tensor, "layer hidden column"]:
    """Return ``rank`` seeded random columns within the top 32 components of d, drawn for each layer.

    A random rotation of any cue within those components is distributed so. The sign is random too: a column that was
    turned towards chosen would be a little of the shared direction.
    """
    components = top_components(x.d, COMPONENTS)
    size = (components.shape[0], components.shape[2], x.rank)
    return components @ torch.randn(size, generator=x.generator, dtype=torch.float64).to(components)


random = Kind(_random)
