"""`innerpo doctor METHOD`: does each term of a loss teach, in the right direction, and see what it should see?

A few pairs, one batch, no training. The adapter is moved a small seeded step away from the reference first, because
several terms (drift, retain, coherence) are flat exactly there.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.table import Table
from torch import Tensor, nn

from innerpo.config import RunConfig
from innerpo.console import stdout
from innerpo.data.batch import TokenBatch, make_batch
from innerpo.data.pairs import choose_negatives, shuffle_labels
from innerpo.data.tokens import Tokens
from innerpo.errors import UserError
from innerpo.evaluation.columns import training_pairs
from innerpo.files import cache_root
from innerpo.methods.gradients.fit import fit_gradients
from innerpo.methods.method import LossOutput, Method, build_method, fit_method
from innerpo.methods.records import PairOutputs
from innerpo.model.layers import decoder_blocks, resolve_layers
from innerpo.model.layout import choose_layout
from innerpo.model.load import add_adapter, load_base, reference_mode
from innerpo.model.outputs import sequence_outputs
from innerpo.model.reference import compute_reference

TRIES = 8
"""Perturbations tried before a term counts as flat: coherence and the hinge are flat on one side of a bend."""
SIZES = 8
"""Step sizes tried, each a third of the last; the smallest promises a change well above float32 rounding."""
LEAST_SLOPE = 0.1
"""Part of the decrease that the gradient promises which a small step must bring."""
CHANGED = 1e-4
"""Least relative change that is a change, when labels are swapped; float32 rounding stays below 1e-5."""

Parameters = list[nn.Parameter]


@dataclass(frozen=True)
class TermCheck:
    """What was found of one term. ``share`` is of the sum of weighted gradient norms; no ``faults``: all is well."""

    name: str
    weight: float
    value: float
    share: float
    gradient: str
    sign: str
    labels: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """The terms, and checks of the method as a whole: (what, what was found, whether it is right)."""

    method: str
    terms: tuple[TermCheck, ...]
    whole: tuple[tuple[str, str, bool], ...]

    @property
    def failures(self) -> list[str]:
        """Every check that failed, named."""
        of_terms = [f"{term.name}: {fault}" for term in self.terms for fault in term.faults]
        return of_terms + [f"{what}: {found}" for what, found, right in self.whole if not right]


@dataclass(frozen=True)
class _Patient:
    """A method on one batch: everything that a check needs to ask again after the parameters moved."""

    method: Method
    policy: Any
    batch: TokenBatch
    reference: PairOutputs
    parameters: Parameters

    def outputs(self) -> PairOutputs:
        found = sequence_outputs(self.policy, self.batch, self.method.request)
        return PairOutputs.of(found, self.batch, self.method.transform)

    def loss(self) -> LossOutput:
        return self.method.loss(self.outputs(), self.reference)


def examine(config: RunConfig, seed: int = 0) -> Diagnosis:
    """Check a method on the first batch of its training pairs. Nothing is written, but the model cache."""
    with tempfile.TemporaryDirectory() as scratch:
        patient = _admit(config, Path(scratch))
    whole = _at_the_reference(patient)
    start = [p.detach().clone() for p in patient.parameters]
    noise = _noise(patient, start, seed)
    found = patient.loss()
    gradients = _gradients(found, list(found.terms), patient.parameters)
    shares = _shares(patient.method.weights, gradients)
    values = {name: float(value.detach().mean()) for name, value in found.terms.items()}
    checks = {name: _check_term(patient, name, found.terms[name], gradient) for name, gradient in gradients.items()}
    whole += _edited(patient)
    for attempt in range(1, TRIES):
        flat = [name for name, check in checks.items() if check[0] == "none"]
        if not flat:
            break
        if attempt % 2:  # each step forwards and backwards: where one is on the flat side of a bend, the other is not
            _move(patient.parameters, start, [-n for n in noise])
        else:
            noise = _noise(patient, start, seed + attempt)
        found = patient.loss()
        for name, gradient in _gradients(found, flat, patient.parameters).items():
            checks[name] = _check_term(patient, name, found.terms[name], gradient)
    terms = [_term_check(patient, name, values[name], shares[name], *check) for name, check in checks.items()]
    return Diagnosis(config.method_label, tuple(terms), tuple(whole))


def consult(config: RunConfig, seed: int) -> None:
    """Print what was found. Raises UserError, naming the checks, where one fails."""
    found = examine(config, seed)
    stdout.print(as_rich(found))
    if found.failures:
        raise UserError(f"{found.method} fails {len(found.failures)} checks: {'; '.join(found.failures)}")


def _admit(config: RunConfig, scratch: Path) -> _Patient:
    """Prepare a method as training does, on few pairs, in float32, with nothing cached but the model."""
    data = config.data
    model = replace(config.model, dtype="float32") if config.model.dtype == "auto" else config.model
    pairs = choose_negatives(training_pairs(config), data.negatives, data.seed)
    pairs = shuffle_labels(pairs, data.shuffled_labels, data.seed)
    base = load_base(model, cache_root(data.cache_dir))
    method = build_method(config.method, resolve_layers(config.method.layers, len(decoder_blocks(base.model))))
    items = Tokens(base.tokenizer, data.max_prompt_tokens, data.max_response_tokens).training_items(pairs)
    if not items:
        raise UserError(f"{data.dataset} has no pair left to check a method on")
    layout = choose_layout(base.model, items, base.pad_id, data.layout).layout
    common: dict[str, Any] = {"batch_size": data.batch_size, "cache_dir": scratch}
    reference = compute_reference(
        base, items, layout, method.request, what=f"{data.dataset} ({len(items)} pairs)", **common
    )
    method = fit_method(method, reference, base.model, config.training.seed, layout, base.pad_id)
    device = next(base.model.parameters()).device
    batch = make_batch(items[: data.batch_size], layout, base.pad_id).to(device)
    policy: Any = add_adapter(base, model, config.training.seed)
    policy.eval()
    method = fit_gradients(method, policy, base, items, layout, seed=config.training.seed, **common)
    if method.directions is not None:
        method = method.with_directions(method.directions.to(device))
    with reference_mode(policy):  # the batch's own pass, so that policy = reference holds to the last bit
        outputs = sequence_outputs(policy, batch, method.request)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    return _Patient(method, policy, batch, PairOutputs.of(outputs, batch, method.transform), parameters)


# -- the whole method ------------------------------------------------------------------------------------------------


def _at_the_reference(patient: _Patient) -> list[tuple[str, str, bool]]:
    """Policy = reference: margin 0, drift exactly 0, DPO's loss log 2, no gradient that is not a number."""
    found = patient.loss()
    checks = []
    if "inner_margin" in found.metrics:
        margin = float(found.metrics["inner_margin"].abs().max())
        checks.append(("margin at the reference", f"{margin:.1e}, should be 0", margin < 1e-6))
    if "drift" in found.terms:
        drift = float(found.terms["drift"].detach().abs().max())
        checks.append(("drift at the reference", f"{drift:.1e}, should be 0", drift == 0.0))
    if "output" in found.terms and patient.method.config.output == "dpo":
        off = float((found.terms["output"].detach() - math.log(2.0)).abs().max())
        checks.append(("dpo at the reference", f"{off:.1e} from log 2", off < 1e-6))
    gradients = _gradients(found, list(found.terms), patient.parameters)
    wrong = [name for name, g in gradients.items() if not math.isfinite(_length(g))]
    checks.append(("gradients at the reference", f"not finite: {', '.join(wrong)}" if wrong else "finite", not wrong))
    directions, rows = patient.method.directions, patient.method.transform.rows
    if directions is not None:
        frozen = {"transform": rows, "directions": directions.w, "scale": directions.scale}
        learns = [name for name, t in frozen.items() if t is not None and t.requires_grad]
        checks.append(("frozen", f"gradient reaches {', '.join(learns)}" if learns else "no gradient", not learns))
    return checks


def _edited(patient: _Patient) -> list[tuple[str, str, bool]]:
    """A step down the gradient that the method's gradient edit leaves must lower the loss."""
    edit = patient.method.gradient_edit
    if edit is None:
        return []
    for p in patient.parameters:
        p.grad = None
    with edit.installed(patient.policy):
        before = patient.loss().per_pair.mean()
        before.backward()  # type: ignore[no-untyped-call]
        edit.after_backward(patient.policy)
    gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in patient.parameters]
    name = f"{patient.method.config.gradient} gradient"
    length = _length(gradient)
    if not 0.0 < length < math.inf:
        return [(name, "none" if length == 0.0 else "not finite", False)]
    falls = _falls(patient, gradient, float(before.detach()), lambda out: out.per_pair)
    return [(name, "a step down it lowers the loss" if falls else "a step down it does not lower the loss", falls)]


# -- one term --------------------------------------------------------------------------------------------------------


def _check_term(
    patient: _Patient, name: str, value: Float[Tensor, " pair"], gradient: list[Tensor]
) -> tuple[str, str, str]:
    """(gradient, sign, labels) where the parameters are: each "ok" or the fault; the parameters stay where they are."""
    labels = _label_check(patient, name)
    length = _length(gradient)
    if not math.isfinite(length) or not bool(torch.isfinite(value).all()):
        return "not finite", "-", labels
    if length == 0.0:
        return "none", "-", labels
    falls = _falls(patient, gradient, float(value.detach().mean()), lambda out: out.terms[name])
    return "ok", "ok" if falls else "wrong", labels


def _label_check(patient: _Patient, name: str) -> str:
    """What a swap of chosen and rejected, in policy and reference alike, does to a term: changes it, or not."""
    with torch.no_grad():
        policy = patient.outputs()
        plain = patient.method.loss(policy, patient.reference).terms[name]
        swapped = patient.method.loss(_swap(policy), _swap(patient.reference)).terms[name]
    change = float((swapped - plain).abs().max())
    return "change" if change > CHANGED * max(float(plain.abs().max()), 1e-3) else "same"


def _swap(outputs: PairOutputs) -> PairOutputs:
    """The same responses with the other one called chosen."""
    return replace(
        outputs,
        chosen_logps=outputs.rejected_logps,
        rejected_logps=outputs.chosen_logps,
        chosen_tokens=outputs.rejected_tokens,
        rejected_tokens=outputs.chosen_tokens,
        chosen_states=outputs.rejected_states,
        rejected_states=outputs.chosen_states,
        sequence=None if outputs.sequence is None else outputs.sequence ^ 1,  # 2i <-> 2i + 1
    )


def _term_check(
    patient: _Patient, name: str, value: float, share: float, gradient: str, sign: str, labels: str
) -> TermCheck:
    expected = patient.method.terms[name].label_expectation(patient.method.config)
    faults = []
    if gradient != "ok":
        faults.append("no gradient reaches the adapter" if gradient == "none" else "its gradient is not finite")
    if sign == "wrong":
        faults.append("a step down its gradient does not lower it")
    if expected is not None and (labels == "change") != expected:
        faults.append("does not see the labels, and should" if expected else "sees the labels, and should not")
    shown = "not declared" if expected is None else "expected" if (labels == "change") == expected else "unexpected"
    weight = patient.method.weights[name]
    return TermCheck(name, weight, value, share, gradient, sign, f"{labels} ({shown})", tuple(faults))


def _gradients(found: LossOutput, names: Sequence[str], parameters: Parameters) -> dict[str, list[Tensor]]:
    """Each term's own gradient (of its mean over the batch, unweighted)."""
    result = {}
    for name in names:
        value = found.terms[name]
        if not value.requires_grad:
            result[name] = [torch.zeros_like(p) for p in parameters]
            continue
        gradient = torch.autograd.grad(value.mean(), parameters, retain_graph=True, allow_unused=True)
        result[name] = [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, parameters, strict=True)]
    return result


def _shares(weights: dict[str, float], gradients: dict[str, list[Tensor]]) -> dict[str, float]:
    lengths = {name: abs(weights[name]) * _length(g) for name, g in gradients.items()}
    total = sum(lengths.values())
    return {name: length / total if total else 0.0 for name, length in lengths.items()}


# -- steps -----------------------------------------------------------------------------------------------------------


def _noise(patient: _Patient, start: Sequence[Tensor], seed: int) -> list[Tensor]:
    """A seeded step away from the reference that moves some response's log-probability by .02 to .2 nats a token.

    It moves what is zero at the reference (LoRA's second matrices), or, with full fine-tuning, every weight. The
    parameters are left at the step's end.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(p.shape, generator=generator).to(p.device, p.dtype) for p in start]
    zero = [not bool(p.any()) for p in start]
    sizes = [
        float(z) if any(zero) else float(p.float().square().mean().sqrt()) for z, p in zip(zero, start, strict=True)
    ]
    factor, reference = 0.02, patient.reference
    for _ in range(24):
        noise = [factor * size * n for size, n in zip(sizes, drawn, strict=True)]
        _move(patient.parameters, start, noise)
        with torch.no_grad():
            policy = patient.outputs()
        chosen = (policy.chosen_logps - reference.chosen_logps) / policy.chosen_tokens
        rejected = (policy.rejected_logps - reference.rejected_logps) / policy.rejected_tokens
        moved = float(torch.cat([chosen, rejected]).abs().max())
        if 0.02 <= moved <= 0.2:
            return noise
        factor *= 0.5 if not moved <= 0.2 else 1.6
    return noise


def _falls(patient: _Patient, gradient: Sequence[Tensor], before: float, value: Callable[[LossOutput], Tensor]) -> bool:
    """Whether a small step down a gradient lowers a value: the smaller the step, the more surely.

    Steps forwards and backwards, ever smaller, until two sizes agree on the slope: then it is a slope, and not how the
    loss bends further away. 1 is the slope that the gradient promises.
    """
    start = [p.detach().clone() for p in patient.parameters]
    length, promised, slopes = _length(gradient), 0.05 * max(abs(before), 0.01), [math.nan]
    for _ in range(SIZES):
        ends = []
        for sign in (1.0, -1.0):
            _move(patient.parameters, start, [sign * promised / length**2 * g for g in gradient])
            with torch.no_grad():
                ends.append(float(value(patient.loss()).mean()))
        slopes.append((ends[0] - ends[1]) / (2.0 * promised))
        if abs(slopes[-1] - slopes[-2]) <= 0.2 * abs(slopes[-1]):
            break
        promised /= 3.0
    _move(patient.parameters, start, [torch.zeros_like(p) for p in start])
    return slopes[-1] >= LEAST_SLOPE


def _move(parameters: Parameters, start: Sequence[Tensor], step: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for p, p0, s in zip(parameters, start, step, strict=True):
            p.copy_(p0 + s)


def _length(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([t.float().square().sum() for t in tensors]).sum().sqrt())


# -- for people ------------------------------------------------------------------------------------------------------


def as_rich(diagnosis: Diagnosis) -> Table:
    """Return the table of terms and whole-method checks."""
    shown = Table(title=f"doctor: {diagnosis.method}", title_justify="left")
    for column in (
        "check",
        "weight",
        "value",
        "gradient share",
        "gradient",
        "step down it",
        "labels swapped",
        "verdict",
    ):
        justify: Any = "right" if column in ("weight", "value", "gradient share") else "left"
        shown.add_column(column, justify=justify, no_wrap=column == "check")
    steps = {"ok": "lowers it", "wrong": "does not", "-": "-"}
    for t in diagnosis.terms:
        share, verdict = f"{t.share:.0%}", "FAIL" if t.faults else "ok"
        shown.add_row(t.name, f"{t.weight:g}", f"{t.value:.3g}", share, t.gradient, steps[t.sign], t.labels, verdict)
    for what, found, right in diagnosis.whole:
        shown.add_row(what, "", "", "", found, "", "", "ok" if right else "FAIL")
    return shown
