"""Length-normalised DPO: each response's log-ratio counts per token."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import PairOutputs, TermInputs


def dpo_norm_loss(policy: PairOutputs, reference: PairOutputs, beta: float) -> Float[Tensor, " pair"]:
    """Return -log sigmoid(beta q), q the difference of the two responses' log-ratios, each per token.

    Lambert et al. 2024 (Tulu 3), arXiv 2411.15124, section on length-normalised DPO; TRL's loss_type sigmoid_norm. beta
    is in logits per (nat per token), so it has to be larger than DPO's (Tulu 3 has 5).
    """
    chosen = (policy.chosen_logps - reference.chosen_logps) / policy.chosen_n_tokens
    rejected = (policy.rejected_logps - reference.rejected_logps) / policy.rejected_n_tokens
    return -F.logsigmoid(beta * (chosen - rejected))


def dpo_norm(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return length-normalised DPO's loss per pair."""
    return dpo_norm_loss(x.policy, x.reference, x.method.beta)
