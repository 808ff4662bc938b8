"""APO (anchored preference optimisation): each response is moved in a direction that is said, not only their margin."""

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import PairOutputs, TermInputs, log_ratio_margin


def apo_zero_loss(policy: PairOutputs, reference: PairOutputs, beta: float) -> Float[Tensor, " pair"]:
    """Return (1 - sigmoid(beta r_c)) + sigmoid(beta r_r), r the log-ratios to the reference, in nats.

    D'Oosterlinck et al. 2024, arXiv 2408.06266, equation 7: the chosen response more likely, the rejected one less. For
    chosen responses that are better than what the model would say.
    """
    chosen = policy.chosen_logps - reference.chosen_logps
    rejected = policy.rejected_logps - reference.rejected_logps
    return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)


def apo_down_loss(policy: PairOutputs, reference: PairOutputs, beta: float) -> Float[Tensor, " pair"]:
    """Return sigmoid(beta r_c) + (1 - sigmoid(beta (r_c - r_r))), r the log-ratios to the reference, in nats.

    The same paper, equation 8: both responses less likely, the rejected one more so. For chosen responses that are
    worse than what the model would say. At the reference the two pulls on the chosen response cancel.
    """
    chosen = policy.chosen_logps - reference.chosen_logps
    return torch.sigmoid(beta * chosen) + torch.sigmoid(-beta * log_ratio_margin(policy, reference))


def apo_zero(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return APO-zero's loss per pair."""
    return apo_zero_loss(x.policy, x.reference, x.method.beta)


def apo_down(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return APO-down's loss per pair."""
    return apo_down_loss(x.policy, x.reference, x.method.beta)
