"""IPO: the log-ratio margin should reach a fixed size, and not pass it."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import PairOutputs


def ipo_loss(policy: PairOutputs, reference: PairOutputs, beta: float) -> Float[Tensor, " pair"]:
    """(q - 1 / (2 beta))^2, q the difference of the two responses' log-ratios, each per token.

    Azar et al. 2023, arXiv 2310.12036, equation 17 (beta is their tau). The paper writes log-probabilities of whole
    responses; its authors averaged them over tokens, and so does TRL, since a square of sums would weigh long
    responses by their length. Margin and target are nats per token.
    """
    chosen = (policy.chosen_logps - reference.chosen_logps) / policy.chosen_n_tokens
    rejected = (policy.rejected_logps - reference.rejected_logps) / policy.rejected_n_tokens
    return (chosen - rejected - 1.0 / (2.0 * beta)).square()
