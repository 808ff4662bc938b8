"""Robust DPO: DPO's loss without the bias that a known share of wrong labels gives it."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.outputs.dpo import dpo_loss
from innerpo.methods.records import TermInputs, log_ratio_margin


def robust_loss(margin: Float[Tensor, " pair"], beta: float, smoothing: float) -> Float[Tensor, " pair"]:
    """Return (-(1 - e) log sigmoid(beta p) + e log sigmoid(-beta p)) / (1 - 2 e), e the share of wrong labels.

    Chowdhury et al. 2024, arXiv 2403.00409; TRL's loss_type robust. e = 0 is DPO. Over labels that are flipped with
    probability e its mean is DPO's loss on the true label. It has no lower bound: for a large margin it falls as
    -e beta p / (1 - 2 e).
    """
    kept, flipped = dpo_loss(margin, beta), dpo_loss(-margin, beta)
    return ((1.0 - smoothing) * kept - smoothing * flipped) / (1.0 - 2.0 * smoothing)


def robust(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return robust DPO's loss per pair."""
    return robust_loss(log_ratio_margin(x.policy, x.reference), x.method.beta, x.method.label_smoothing)
