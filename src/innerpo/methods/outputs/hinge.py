"""Hinge: the log-ratio margin should reach 1 / beta nats; SLiC's loss on DPO's margin."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import TermInputs, log_ratio_margin


def hinge_loss(margin: Float[Tensor, " pair"], beta: float) -> Float[Tensor, " pair"]:
    """Return max(0, 1 - beta p), p the log-ratio margin in nats.

    Liu et al. 2023 (RSO), arXiv 2309.06657, its normalised hinge: SLiC-HF's loss (Zhao et al. 2023, arXiv 2305.10425)
    with the log-ratios to a reference in place of log-probabilities, and without its term on the chosen response (which
    is ``method.sft``). TRL's loss_type hinge.
    """
    return F.relu(1.0 - beta * margin)


def hinge(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return the hinge loss per pair."""
    return hinge_loss(log_ratio_margin(x.policy, x.reference), x.method.beta)
