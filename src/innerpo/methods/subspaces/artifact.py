"""The artifact: what tells the responses of a pair apart without their prompt."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.errors import UserError
from innerpo.methods.subspaces.subspace import Kind, SubspaceInputs, top_components, towards_chosen


def _artifact(x: SubspaceInputs) -> Float[Tensor, "layer hidden column"]:
    """Return v_art = mean_i d_i^mis, then the top components of d^mis.

    d_i^mis is the difference of pair i's responses behind another pair's prompt, where neither can be right (after
    arXiv 2409.13156). Raises UserError where it was not computed.
    """
    if x.d_mis is None:
        raise UserError(
            "method.cue=artifact needs the states of the responses behind other prompts (d_mis), which were not "
            "computed; use regressors, shared or top"
        )
    found = top_components(x.d_mis, x.rank)
    return torch.cat([x.d_mis.double().mean(1)[:, :, None], towards_chosen(found, x.d_mis)], dim=-1)


artifact = Kind(_artifact, mismatched=True)
