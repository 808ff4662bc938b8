"""The sft term: the loss of supervised fine-tuning on the chosen response; the rejected one is ignored."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import Term, TermInputs


def _sft(x: TermInputs) -> Float[Tensor, " pair"]:
    """Return -log pi(y_c) / |y_c|, in nats per token; each pair weighs the same, whatever its length."""
    return -x.policy.chosen_logps / x.policy.chosen_n_tokens


sft = Term(_sft, needs="logps", sees_labels=True)
