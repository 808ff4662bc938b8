"""Directions that know the prompt: what tells chosen from rejected only behind the right prompt, and what always does.

After the two causes of a preference in RRM (Liu et al. 2024, arXiv 2409.13156): the contextual signal, which depends on
the prompt, and artifacts, which do not. There they are parted by augmenting the data; here by differences of states.
"""

from dataclasses import replace

from innerpo.methods.directions.direction import Direction, DirectionInputs, Fitted
from innerpo.methods.directions.shared import mean_direction


def fit_context(x: DirectionInputs) -> Fitted:
    """Return v_ctx = unit(mean_i (d_i - d_i^mis)), and for each pair the same over the pairs of all other prompts."""
    assert x.d_mis is not None
    return mean_direction(replace(x, d=x.d - x.d_mis))


def fit_artifact(x: DirectionInputs) -> Fitted:
    """Return v_art = unit(mean_i d_i^mis), and for each pair the same over the pairs of all other prompts.

    d_i^mis is the difference of pair i's responses behind another pair's prompt.
    """
    assert x.d_mis is not None
    return mean_direction(replace(x, d=x.d_mis))


context = Direction(fit_context, remove=True, mismatched=True)
artifact = Direction(fit_artifact, remove=True, mismatched=True)
