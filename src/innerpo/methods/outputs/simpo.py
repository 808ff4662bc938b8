"""SimPO: the chosen response should be more likely per token than the rejected one, by a margin; no reference."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import PairOutputs, TermInputs


def simpo_loss(policy: PairOutputs, beta: float, gamma: float) -> Float[Tensor, " pair"]:
    """Return -log sigmoid(beta (log pi_c / |y_c| - log pi_r / |y_r|) - gamma).

    Meng et al. 2024, arXiv 2405.14734, equation 6; beta is in logits per (nat per token), gamma in logits.
    """
    margin = policy.chosen_logps / policy.chosen_n_tokens - policy.rejected_logps / policy.rejected_n_tokens
    return -F.logsigmoid(beta * margin - gamma)


def simpo(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return SimPO's loss per pair."""
    return simpo_loss(x.policy, x.method.beta, x.method.simpo_gamma)
