"""DPOP (DPO-Positive): DPO with a penalty where the chosen response becomes less likely than the reference has it."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.outputs.dpo import dpo_loss
from innerpo.methods.records import PairOutputs, TermInputs, log_ratio_margin


def dpop_loss(policy: PairOutputs, reference: PairOutputs, beta: float, penalty: float) -> Float[Tensor, " pair"]:
    """Return -log sigmoid(beta (p - lambda max(0, log ref_c - log pi_c))), p the log-ratio margin; all in nats.

    Pal et al. 2024, arXiv 2402.13228. ``penalty`` is the paper's lambda (50 there, with beta 0.3); 0 is DPO.
    """
    fallen = F.relu(reference.chosen_logps - policy.chosen_logps)
    return dpo_loss(log_ratio_margin(policy, reference) - penalty * fallen, beta)


def dpop(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return DPOP's loss per pair."""
    return dpop_loss(x.policy, x.reference, x.method.beta, x.method.dpop_lambda)
