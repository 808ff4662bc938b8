"""cDPO (conservative DPO): DPO with smoothed labels, for a share of pairs whose label is wrong."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.outputs.dpo import dpo_loss
from innerpo.methods.records import TermInputs, log_ratio_margin


def cdpo_loss(margin: Float[Tensor, " pair"], beta: float, smoothing: float) -> Float[Tensor, " pair"]:
    """Return -(1 - e) log sigmoid(beta p) - e log sigmoid(-beta p), e the share of wrong labels; 0 is DPO.

    Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO" (ericmitchell.ai/cdpo.pdf), equation 3.
    It is least where sigmoid(beta p) = 1 - e, so a margin beyond log((1 - e) / e) logits costs again.
    """
    return (1.0 - smoothing) * dpo_loss(margin, beta) + smoothing * dpo_loss(-margin, beta)


def cdpo(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return cDPO's loss per pair."""
    return cdpo_loss(log_ratio_margin(x.policy, x.reference), x.method.beta, x.method.label_smoothing)
