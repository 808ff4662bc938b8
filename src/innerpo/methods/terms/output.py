"""The output term: DPO, or another loss, on completion log-probabilities."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.outputs.ipo import ipo_loss
from innerpo.methods.outputs.simpo import simpo_loss
from innerpo.methods.records import PairOutputs, Term, TermInputs


def log_ratio_margin(policy: PairOutputs, reference: PairOutputs) -> Float[Tensor, " pair"]:
    """p = (log pi_c - log pi_r) - (log ref_c - log ref_r), in nats, sums over completion tokens."""
    return (policy.chosen_logps - policy.rejected_logps) - (reference.chosen_logps - reference.rejected_logps)


def dpo(margin: Float[Tensor, " pair"], beta: float) -> Float[Tensor, " pair"]:
    """-log sigmoid(beta p) (Rafailov et al. 2023, arXiv 2305.18290, equation 7)."""
    return -F.logsigmoid(beta * margin)


FORMS: dict[str, Callable[[TermInputs], Float[Tensor, " pair"]]] = {
    "dpo": lambda x: dpo(log_ratio_margin(x.policy, x.reference), x.method.beta),
    "ipo": lambda x: ipo_loss(x.policy, x.reference, x.method.beta),
    "simpo": lambda x: simpo_loss(x.policy, x.method.beta, x.method.simpo_gamma),
}


def _output(x: TermInputs) -> Float[Tensor, " pair"]:
    return FORMS[x.method.output](x)


output = Term(_output, needs="logps", sees_labels=True)
