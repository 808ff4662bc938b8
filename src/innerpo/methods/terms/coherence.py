"""The coherence term: the chosen response should stay at least as likely as under the reference."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import Term, TermInputs


def _coherence(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return max(0, nll_policy(y_c) - nll_ref(y_c)), in nats per token."""
    return F.relu((x.reference.chosen_logps - x.policy.chosen_logps) / x.policy.chosen_n_tokens)


coherence = Term(_coherence, needs="logps", sees_labels=True)
