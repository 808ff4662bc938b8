"""The sft term: the chosen response's own loss, as supervised fine-tuning has it. The rejected one is not looked at."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import Term, TermInputs


def _sft(x: TermInputs) -> Float[Tensor, " pair"]:
    """-log pi(y_c) / |y_c|, nats per token; each pair counts the same, whatever its length."""
    return -x.policy.chosen_logps / x.policy.chosen_n_tokens


sft = Term(_sft, needs="logps", sees_labels=True)
