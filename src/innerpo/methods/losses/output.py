"""The output term: DPO on completion log-probabilities (Rafailov et al. 2023, arXiv 2305.18290, equation 7)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import PairOutputs, Term, TermInputs


def log_ratio_margin(policy: PairOutputs, reference: PairOutputs) -> Float[Tensor, " pair"]:
    """p = (log pi_c - log pi_r) - (log ref_c - log ref_r), in nats, sums over completion tokens."""
    return (policy.chosen_logps - policy.rejected_logps) - (reference.chosen_logps - reference.rejected_logps)


def dpo(margin: Float[Tensor, " pair"], beta: float) -> Float[Tensor, " pair"]:
    """-log sigmoid(beta p)."""
    return -F.logsigmoid(beta * margin)


def _output(x: TermInputs) -> Float[Tensor, " pair"]:
    return dpo(log_ratio_margin(x.policy, x.reference), x.method.beta)


output = Term(_output, needs="logps")
