"""Weights of pairs: more for those that the frozen probe gets wrong (just train twice, arXiv 2107.09044)."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.generators import generator_for
from innerpo.methods.notes.notes import NoteInputs
from innerpo.methods.notes.probe import probe as probe_offsets


def probe(x: NoteInputs) -> Float[Tensor, " pair"]:
    """Return ``reweight_factor`` for each pair whose cross-fitted log-odds are below 0, and 1 for the others."""
    return torch.where(probe_offsets(x) < 0.0, x.method.reweight_factor, 1.0)


def random(x: NoteInputs) -> Float[Tensor, " pair"]:
    """Return the probe's weights in a seeded random order of the pairs: the control of ``probe``."""
    found = probe(x)
    return found[torch.randperm(len(found), generator=generator_for(x.seed, "reweight/random"))]
