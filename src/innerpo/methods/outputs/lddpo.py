"""LD-DPO: tokens beyond the length that both responses have count less."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.outputs.dpo import dpo_loss
from innerpo.methods.records import PairOutputs, TermInputs


def desensitised_logps(
    logps: Float[Tensor, " pair"], shared_logps: Float[Tensor, " pair"], alpha: float
) -> Float[Tensor, " pair"]:
    """Return the sum over the first ``min(|y_c|, |y_r|)`` tokens plus alpha times the sum over those beyond, in nats.

    ``logps`` are the sums over all tokens of a response, ``shared_logps`` those over its first ones. With alpha = 1 the
    result is ``logps`` to the bit.
    """
    return logps - (1.0 - alpha) * (logps - shared_logps)


def lddpo_loss(policy: PairOutputs, reference: PairOutputs, beta: float, alpha: float) -> Float[Tensor, " pair"]:
    """Return DPO's loss on desensitised log-probabilities (Liu et al. 2024, arXiv 2409.06411); alpha = 1 is DPO.

    Policy and reference are treated alike, as in TRL's ld_alpha. Needs ``shared_logps`` in both.
    """

    def ratio(of: PairOutputs) -> Float[Tensor, " pair"]:
        assert of.chosen_shared_logps is not None
        assert of.rejected_shared_logps is not None
        chosen = desensitised_logps(of.chosen_logps, of.chosen_shared_logps, alpha)
        return chosen - desensitised_logps(of.rejected_logps, of.rejected_shared_logps, alpha)

    return dpo_loss(ratio(policy) - ratio(reference), beta)


def lddpo(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return LD-DPO's loss per pair."""
    return lddpo_loss(x.policy, x.reference, x.method.beta, x.method.ld_alpha)
