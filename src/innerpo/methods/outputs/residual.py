"""Residual: DPO on what a frozen probe does not explain already (product of experts)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.outputs.dpo import dpo_loss
from innerpo.methods.records import TermInputs, log_ratio_margin


def residual(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return -log sigmoid(beta p + kappa b), p the log-ratio margin and b the pair's offset, in nats (no gradient).

    After the product of experts of Clark et al. 2019 (arXiv 1909.03683, "bias product") and Sanh et al. 2020 (arXiv
    2012.01300): the offset's expert helps while training and is left out at test. A pair that the probe gets right with
    confidence teaches little; one that it gets wrong teaches more than in DPO. kappa is ``method.offset_weight``. Pairs
    without an offset (an evaluation set) have b = 0, which is DPO.
    """
    margin = log_ratio_margin(x.policy, x.reference)
    if x.notes is None:
        return dpo_loss(margin, x.method.beta)
    return -F.logsigmoid(x.method.beta * margin + x.method.offset_weight * x.notes.offset)
