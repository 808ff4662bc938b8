"""Terms on the companions of pairs: behind a foreign prompt neither response should be preferred.

What is preferred without the right prompt is an artifact (RRM, Liu et al. 2024, arXiv 2409.13156). RRM trains a reward
model on other pairs' responses: a tie between two of them, and a win of the pair's own. Training on ties as a
regulariser of preference learning: Moya et al. 2026, arXiv 2605.11134.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import Term, TermInputs


def _squared(x: TermInputs, kind: str) -> Float[Tensor, " pair"]:
    return (x.method.beta * x.companions[kind].margin).square()


def _mismatch(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return (beta p_mis)^2, p_mis the log-ratio margin of the pair's two responses behind another pair's prompt."""
    return _squared(x, "mismatch")


def _ties(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return (beta p)^2 for two responses of two other pairs behind the pair's prompt: the control of mismatch."""
    return _squared(x, "ties")


def _foreign(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return -log sigmoid(beta p), p the margin of the pair's chosen response over another pair's chosen response."""
    return -F.logsigmoid(x.method.beta * x.companions["foreign"].margin)


mismatch = Term(_mismatch, needs="logps", sees_labels=False, companions={"mismatch": "logps"})
ties = Term(_ties, needs="logps", sees_labels=False, companions={"ties": "logps"})
foreign = Term(_foreign, needs="logps", sees_labels=True, companions={"foreign": "logps"})
