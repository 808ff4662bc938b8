"""R-DPO: DPO on what the difference in length does not explain already."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import PairOutputs, TermInputs, log_ratio_margin


def rdpo_loss(policy: PairOutputs, reference: PairOutputs, beta: float, alpha: float) -> Float[Tensor, " pair"]:
    """Return -log sigmoid(beta p + alpha (|y_c| - |y_r|)), p the log-ratio margin in nats, alpha in logits per token.

    Park et al. 2024, arXiv 2403.19159: the reward is penalised by alpha |y|, r(y) - alpha |y|, so DPO's implicit reward
    is beta log(pi / ref) + alpha |y|. A longer chosen response is explained in part by its length and teaches less; a
    shorter one teaches more. (No relation to "robust DPO", which is robust.py.)
    """
    longer = policy.chosen_n_tokens - policy.rejected_n_tokens
    return -F.logsigmoid(beta * log_ratio_margin(policy, reference) + alpha * longer)


def rdpo(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return R-DPO's loss per pair."""
    return rdpo_loss(x.policy, x.reference, x.method.beta, x.method.rdpo_alpha)
