"""Gradients of terms, and small steps of the parameters: away from the reference, and down a gradient."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from innerpo.doctor.setup import Parameters, Setup
from innerpo.methods.method import LossOutput

SIZES = 8
"""Step sizes tried, each a third of the last; the smallest still changes the value by more than float32 rounding."""
LEAST_SLOPE = 0.1
"""Least decrease of a small step, as a part of the decrease that the gradient predicts."""


def term_gradients(found: LossOutput, names: Sequence[str], parameters: Parameters) -> dict[str, list[Tensor]]:
    """Return each term's own gradient (of its mean over the batch, unweighted)."""
    result = {}
    for name in names:
        value = found.terms[name]
        if not value.requires_grad:
            result[name] = [torch.zeros_like(p) for p in parameters]
            continue
        gradient = torch.autograd.grad(value.mean(), parameters, retain_graph=True, allow_unused=True)
        result[name] = [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, parameters, strict=True)]
    return result


def gradient_shares(weights: dict[str, float], gradients: dict[str, list[Tensor]]) -> dict[str, float]:
    """Return each term's part of the sum of weighted gradient norms; 0 for all where none has a gradient."""
    lengths = {name: abs(weights[name]) * length_of(g) for name, g in gradients.items()}
    total = sum(lengths.values())
    return {name: length / total if total else 0.0 for name, length in lengths.items()}


def step_away(setup: Setup, start: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Make a seeded step away from the reference that moves some response's log-probability by .02 to .2 nats a token.

    It moves what is zero at the reference (LoRA's second matrices), or, with full fine-tuning, every weight. The
    parameters are left at the step's end.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(p.shape, generator=generator).to(p.device, p.dtype) for p in start]
    zero = [not bool(p.any()) for p in start]
    sizes = [
        float(z) if any(zero) else float(p.float().square().mean().sqrt()) for z, p in zip(zero, start, strict=True)
    ]
    factor, reference = 0.02, setup.reference
    for _ in range(24):
        noise = [factor * size * n for size, n in zip(sizes, drawn, strict=True)]
        move(setup.parameters, start, noise)
        with torch.no_grad():
            policy = setup.not_inoculated().outputs()
        chosen = (policy.chosen_logps - reference.chosen_logps) / policy.chosen_n_tokens
        rejected = (policy.rejected_logps - reference.rejected_logps) / policy.rejected_n_tokens
        moved = float(torch.cat([chosen, rejected]).abs().max())
        if 0.02 <= moved <= 0.2:
            return noise
        factor *= 0.5 if not moved <= 0.2 else 1.6
    return noise


def step_lowers(setup: Setup, gradient: Sequence[Tensor], before: float, value: Callable[[LossOutput], Tensor]) -> bool:
    """Return whether a small step down a gradient lowers a value.

    Central differences with ever smaller steps, until two sizes agree on the slope, so that curvature further away does
    not count. The slope is relative to the one that the gradient predicts.
    """
    start = [p.detach().clone() for p in setup.parameters]
    length, predicted, slopes = length_of(gradient), 0.05 * max(abs(before), 0.01), [math.nan]
    for _ in range(SIZES):
        ends = []
        for sign in (1.0, -1.0):
            move(setup.parameters, start, [sign * predicted / length**2 * g for g in gradient])
            with torch.no_grad():
                ends.append(float(value(setup.loss()).mean()))
        slopes.append((ends[0] - ends[1]) / (2.0 * predicted))
        if abs(slopes[-1] - slopes[-2]) <= 0.2 * abs(slopes[-1]):
            break
        predicted /= 3.0
    move(setup.parameters, start, [torch.zeros_like(p) for p in start])
    return slopes[-1] >= LEAST_SLOPE


def move(parameters: Parameters, start: Sequence[Tensor], step: Sequence[Tensor]) -> None:
    """Put the parameters at ``start`` plus a step."""
    with torch.no_grad():
        for p, p0, s in zip(parameters, start, step, strict=True):
            p.copy_(p0 + s)


def length_of(tensors: Sequence[Tensor]) -> float:
    """Return the norm of all the tensors together."""
    return float(torch.stack([t.float().square().sum() for t in tensors]).sum().sqrt())
