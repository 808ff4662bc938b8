"""The output term: a loss on completion log-probabilities, in the form that ``method.output`` names (dpo, ipo, ...)."""

from jaxtyping import Float
from torch import Tensor

from innerpo.methods.records import OutputForm, Term, TermInputs
from innerpo.registry import OUTPUTS, resolve


def _output(x: TermInputs) -> Float[Tensor, " pair"]:
    form: OutputForm = resolve(OUTPUTS, x.method.output, "method.output")
    return form(x)


output = Term(_output, needs="logps", sees_labels=True)
