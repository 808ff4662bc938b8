"""Weights of pairs: more for those that the frozen probe gets wrong (just train twice, arXiv 2107.09044)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.generators import generator_for
from innerpo.methods.notes.notes import NoteInputs
from innerpo.methods.notes.probe import probe as probe_offsets


def probe(x: NoteInputs) -> Float[Tensor, " pair"]:
    """Return ``reweight_factor`` for each pair whose cross-fitted log-odds are below 0, and 1 for the others."""
    return torch.where(probe_offsets(x) < 0.0, x.method.reweight_factor, 1.0)


def disputed(x: NoteInputs) -> Float[Tensor, " pair"]:
    """Return weights by what two frozen probes say, both cross-fitted: the mean difference and the discriminant (lda).

    ``reweight_factor`` where the mean is wrong and lda right: lda divides by the spread along each direction, so that
    what holds in all pairs outweighs what is large in most. The factor's inverse where both are wrong, since such a
    pair obeys neither and its label is the likelier to be wrong. 1 for the others.
    """
    by_mean, by_lda = (probe_offsets(replace(x, method=replace(x.method, direction=d))) for d in ("shared", "lda"))
    factor = x.method.reweight_factor
    return torch.where(by_mean >= 0.0, 1.0, torch.where(by_lda >= 0.0, factor, 1.0 / factor))


def disputed_random(x: NoteInputs) -> Float[Tensor, " pair"]:
    """Return the weights of ``disputed`` in a seeded random order of the pairs: its control."""
    found = disputed(x)
    return found[torch.randperm(len(found), generator=generator_for(x.seed, "reweight/random"))]


def random(x: NoteInputs) -> Float[Tensor, " pair"]:
    """Return the probe's weights in a seeded random order of the pairs: the control of ``probe``."""
    found = probe(x)
    return found[torch.randperm(len(found), generator=generator_for(x.seed, "reweight/random"))]
