"""The sanity checks of each term and of the method as a whole, and the record of their results."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.config.run import RunConfig
from innerpo.doctor.hooks import hook_checks
from innerpo.doctor.setup import Setup, set_up
from innerpo.doctor.steps import gradient_shares, length_of, move, step_away, step_lowers, term_gradients
from innerpo.doctor.trunk import trunk_checks
from innerpo.methods.method import LossOutput
from innerpo.methods.records import PairOutputs
from innerpo.model.base import Base

TRIES = 8
"""Steps tried before a term counts as having no gradient: coherence and the hinge have none on one side of a kink."""
LOG_2 = dict.fromkeys(("dpo", "dpo_norm", "lddpo", "dpop", "cdpo", "robust"), math.log(2.0))
AT_REFERENCE = {**LOG_2, "hinge": 1.0, "apo_zero": 1.0, "apo_down": 1.0}
"""Loss of an output form where policy and reference agree. The other forms depend there on more than the config."""
CHANGED = 1e-4
"""Least relative change that counts as one when labels are swapped; float32 rounding stays below 1e-5."""


@dataclass(frozen=True)
class TermCheck:
    """Results for one term. ``share``: its part of the sum of weighted gradient norms; no ``faults``: all is well."""

    name: str
    weight: float
    value: float
    share: float
    gradient: str
    sign: str
    labels: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class SanityReport:
    """Results for the terms, and for the whole method as (check, result, whether it passed)."""

    method: str
    terms: tuple[TermCheck, ...]
    whole: tuple[tuple[str, str, bool], ...]

    @property
    def failures(self) -> list[str]:
        """Every check that failed, by name, with its result."""
        of_terms = [f"{term.name}: {fault}" for term in self.terms for fault in term.faults]
        return of_terms + [f"{what}: {found}" for what, found, right in self.whole if not right]


def run_checks(config: RunConfig, seed: int = 0, base: Base | None = None) -> SanityReport:
    """Check a method on the first batch of its training pairs. Nothing is written but the model cache."""
    with set_up(config, base) as setup:
        terms, whole = _all_checks(setup, seed)
    return SanityReport(config.method_label, tuple(terms), tuple(whole))


def _all_checks(setup: Setup, seed: int) -> tuple[list[TermCheck], list[tuple[str, str, bool]]]:
    """Check the method at the reference, and each term a small step away from it."""
    whole = _at_the_reference(setup)
    start = [p.detach().clone() for p in setup.parameters]
    noise = step_away(setup, start, seed)
    found = setup.loss()
    gradients = term_gradients(found, list(found.terms), setup.parameters)
    shares = gradient_shares(setup.method.term_weights, gradients)
    values = {name: float(value.detach().mean()) for name, value in found.terms.items()}
    checks = {name: _check_term(setup, name, found.terms[name], gradient) for name, gradient in gradients.items()}
    whole += _edited(setup) + hook_checks(setup) + trunk_checks(setup)
    for attempt in range(1, TRIES):
        flat = [name for name, check in checks.items() if check[0] == "none"]
        if not flat:
            break
        if attempt % 2:  # each step forwards and backwards: where one is on the flat side of a bend, the other is not
            move(setup.parameters, start, [-n for n in noise])
        else:
            noise = step_away(setup, start, seed + attempt)
        found = setup.loss()
        for name, gradient in term_gradients(found, flat, setup.parameters).items():
            checks[name] = _check_term(setup, name, found.terms[name], gradient)
    return [_term_check(setup, name, values[name], shares[name], *check) for name, check in checks.items()], whole


# -- the whole method ------------------------------------------------------------------------------------------------


def _at_the_reference(setup: Setup) -> list[tuple[str, str, bool]]:
    """Policy = reference: margin 0, drift exactly 0, the output term's known value, every gradient finite."""
    found = setup.not_inoculated().loss()
    checks = []
    if "inner_margin" in found.metrics:
        margin = float(found.metrics["inner_margin"].abs().max())
        checks.append(("margin at the reference", f"{margin:.1e}, should be 0", margin < 1e-6))
    if "drift" in found.terms:
        drift = float(found.terms["drift"].detach().abs().max())
        checks.append(("drift at the reference", f"{drift:.1e}, should be 0", drift == 0.0))
    form = setup.method.config.output
    if "output" in found.terms and form in AT_REFERENCE:
        expected, shown = AT_REFERENCE[form], "log 2" if form in LOG_2 else f"{AT_REFERENCE[form]:g}"
        off = float((found.terms["output"].detach() - expected).abs().max())
        checks.append((f"{form} at the reference", f"{off:.1e} from {shown}", off < 1e-6))
    checks += _with_companions(setup, found)
    gradients = term_gradients(found, list(found.terms), setup.parameters)
    wrong = [name for name, g in gradients.items() if not math.isfinite(length_of(g))]
    checks.append(("gradients at the reference", f"not finite: {', '.join(wrong)}" if wrong else "finite", not wrong))
    directions, rows = setup.method.directions, setup.method.transform.basis
    if directions is not None:
        frozen = {"transform": rows, "directions": directions.w, "scale": directions.scale}
        learns = [name for name, t in frozen.items() if t is not None and t.requires_grad]
        checks.append(("frozen", f"gradient reaches {', '.join(learns)}" if learns else "no gradient", not learns))
    return checks


def _with_companions(setup: Setup, found: LossOutput) -> list[tuple[str, str, bool]]:
    """At the reference, terms on companions are 0, or log 2; with weight 0 none is run and the rest is as it was."""
    on = {name: term for name, term in setup.method.terms.items() if term.companions}
    checks = []
    for name in on:
        value = found.terms[name].detach()
        off = float(value.sub(math.log(2.0)).abs().max()) if name == "foreign" else float(value.abs().max())
        checks.append((f"{name} at the reference", f"{off:.1e} from {'log 2' if name == 'foreign' else 0}", off < 1e-6))
    rest = {name: weight for name, weight in setup.method.term_weights.items() if name not in on}
    if not on or not rest:
        return checks
    without = replace(setup.method, term_weights=rest, terms={name: setup.method.terms[name] for name in rest})
    alone = without.loss(setup.outputs(), setup.reference, setup.notes)
    same = all(bool((alone.terms[name] == found.terms[name]).all()) for name in rest)
    right = not without.companions and same
    said = "no companion is run, other terms are the same" if right else "companions are run, or other terms change"
    return [*checks, ("weight 0", said, right)]


def _edited(setup: Setup) -> list[tuple[str, str, bool]]:
    """A step down the edited gradient (projgrad, projbp) must lower the loss."""
    edit = setup.method.gradient_edit
    if edit is None:
        return []
    for p in setup.parameters:
        p.grad = None
    with edit.installed(setup.policy):
        before = setup.loss().per_pair.mean()
        before.backward()  # type: ignore[no-untyped-call]
        edit.after_backward(setup.policy)
    gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in setup.parameters]
    name = f"{setup.method.config.gradient} gradient"
    length = length_of(gradient)
    if not 0.0 < length < math.inf:
        return [(name, "none" if length == 0.0 else "not finite", False)]
    falls = step_lowers(setup, gradient, float(before.detach()), lambda out: out.per_pair)
    return [(name, "a step down it lowers the loss" if falls else "a step down it does not lower the loss", falls)]


# -- one term --------------------------------------------------------------------------------------------------------


def _check_term(setup: Setup, name: str, value: Float[Tensor, " pair"], gradient: list[Tensor]) -> tuple[str, str, str]:
    """Return (gradient, sign, labels) at the current parameters, each "ok" or the fault; the parameters are kept."""
    labels = _label_check(setup, name)
    length = length_of(gradient)
    if not math.isfinite(length) or not bool(torch.isfinite(value).all()):
        return "not finite", "-", labels
    if length == 0.0:
        return "none", "-", labels
    falls = step_lowers(setup, gradient, float(value.detach().mean()), lambda out: out.terms[name])
    return "ok", "ok" if falls else "wrong", labels


def _label_check(setup: Setup, name: str) -> str:
    """Return whether a swap of chosen and rejected, in policy and reference alike, gives a "change" or the "same"."""
    with torch.no_grad():
        policy = setup.outputs()
        notes = None if setup.notes is None else setup.notes.swapped()
        companions, turned = setup.companion_outputs(), setup.companion_outputs(swapped=True)
        plain = setup.method.loss(policy, setup.reference, setup.notes, companions).terms[name]
        swapped = setup.method.loss(_swap(policy), _swap(setup.reference), notes, turned).terms[name]
    change = float((swapped - plain).abs().max())
    return "change" if change > CHANGED * max(float(plain.abs().max()), 1e-3) else "same"


def _swap(outputs: PairOutputs) -> PairOutputs:
    """Return the outputs with chosen and rejected swapped."""
    return replace(
        outputs,
        chosen_logps=outputs.rejected_logps,
        rejected_logps=outputs.chosen_logps,
        chosen_n_tokens=outputs.rejected_n_tokens,
        rejected_n_tokens=outputs.chosen_n_tokens,
        chosen_states=outputs.rejected_states,
        rejected_states=outputs.chosen_states,
        chosen_shared_logps=outputs.rejected_shared_logps,
        rejected_shared_logps=outputs.chosen_shared_logps,
        sequence=None if outputs.sequence is None else outputs.sequence ^ 1,  # 2i <-> 2i + 1
    )


def _term_check(
    setup: Setup, name: str, value: float, share: float, gradient: str, sign: str, labels: str
) -> TermCheck:
    expected = setup.method.terms[name].label_expectation(setup.method.config)
    faults = []
    if gradient != "ok":
        faults.append("no gradient reaches the adapter" if gradient == "none" else "its gradient is not finite")
    if sign == "wrong":
        faults.append("a step down its gradient does not lower it")
    if expected is not None and (labels == "change") != expected:
        faults.append("does not see the labels, and should" if expected else "sees the labels, and should not")
    shown = "not declared" if expected is None else "expected" if (labels == "change") == expected else "unexpected"
    weight = setup.method.term_weights[name]
    return TermCheck(name, weight, value, share, gradient, sign, f"{labels} ({shown})", tuple(faults))
