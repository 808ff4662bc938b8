"""IPO: the log-ratio margin should equal a fixed target."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import PairOutputs, TermInputs


def ipo_loss(policy: PairOutputs, reference: PairOutputs, beta: float) -> Float[Tensor, " pair"]:
    """Return (q - 1 / (2 beta))^2, q the difference of the two responses' log-ratios, each per token.

    Azar et al. 2023, arXiv 2310.12036, equation 17 (beta is their tau). The paper writes log-probabilities of whole
    responses; its authors average them over tokens, as TRL does, because the square of a sum weights long responses
    more. Margin and target are in nats per token.
    """
    chosen = (policy.chosen_logps - reference.chosen_logps) / policy.chosen_n_tokens
    rejected = (policy.rejected_logps - reference.rejected_logps) / policy.rejected_n_tokens
    return (chosen - rejected - 1.0 / (2.0 * beta)).square()


def ipo(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return IPO's loss per pair."""
    return ipo_loss(x.policy, x.reference, x.method.beta)
