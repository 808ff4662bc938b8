"""DPO: the log-ratio margin should be positive."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import TermInputs, log_ratio_margin


def dpo_loss(margin: Float[Tensor, " pair"], beta: float) -> Float[Tensor, " pair"]:
    """Return -log sigmoid(beta p), p the log-ratio margin in nats (Rafailov et al. 2023, arXiv 2305.18290, eq. 7)."""
    return -F.logsigmoid(beta * margin)


def dpo(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return DPO's loss per pair."""
    return dpo_loss(log_ratio_margin(x.policy, x.reference), x.method.beta)
