"""The probe loss by which ``ether``, ``ortho`` and ``hra`` choose their rows, on reference states alone.

A subspace is good if, seen in it alone, the mean difference of the other pairs tells a pair's chosen response from its
rejected one, in units of the differences' own standard deviation (as the margin is measured later):

    z_i = Q d_i        a_i = <z_i, unit(mean_{j != i} z_j)>        probe = mean_i softplus(-a_i / std(a))

Neither the length of a state nor that of Q's rows (they are orthonormal) can lower it. Full rank is a rotation, on
which it does not depend; below that, it asks for dimensions in which the pairs agree, and against those that add noise.
"""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from innerpo.config.method import TransformConfig
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.methods.directions.estimate import SCALE_FLOOR
from innerpo.methods.records import norm, unit
from innerpo.methods.transforms.transform import FitInputs

log = logging.getLogger(__name__)

HELD_BACK = 0.2
"""Share of the training pairs (whole prompts) on which the probe is stopped and never fitted."""
PATIENCE, GAIN = 15, 1e-4
"""It stops when, for this many steps, no layer's held-back loss has fallen by this much."""
MIN_PAIRS = 4


def subspace_losses(
    rows: Float[Tensor, "layer rank hidden"],
    d: Float[Tensor, "layer pair hidden"],
    held: Float[Tensor, "layer held hidden"],
) -> tuple[Float[Tensor, " layer"], Float[Tensor, " layer"]]:
    """Return the probe loss of each layer on the pairs d, and that of d's mean and scale on other pairs."""
    z, n = d @ rows.transpose(1, 2), d.shape[1]
    mean = z.mean(1, keepdim=True)
    along = (z * unit((n * mean - z) / (n - 1))).sum(-1)
    floor = SCALE_FLOOR * norm(d).square().mean(1).sqrt()
    scale = (along.var(1) + floor.square()).sqrt()[:, None]
    others = (held @ rows.transpose(1, 2) * unit(mean)).sum(-1)
    return F.softplus(-along / scale).mean(1), F.softplus(-others / scale).mean(1)


def learn_basis(
    name: str, module: nn.Module, inputs: FitInputs, options: TransformConfig, step_scale: float = 1.0
) -> Float[Tensor, "layer rank hidden"]:
    """Fit a module whose forward gives rows; return those of each layer's best step on held-back pairs.

    The start counts as a step, so that rows which learned nothing general are not used. Raises UserError for fewer
    than MIN_PAIRS pairs.
    """
    d = inputs.differences
    if d.shape[1] < MIN_PAIRS:
        raise UserError(f"the transform {name!r} is learned and needs {MIN_PAIRS} training pairs, got {d.shape[1]}")
    kept, held_back = split_pairs(inputs.items, d.shape[1], inputs.generator())
    fitted, held = (part.to(inputs.device) for part in (d[:, kept], d[:, held_back]))
    module.to(inputs.device)
    optimiser = torch.optim.Adam(module.parameters(), lr=options.fit_lr * step_scale)
    best: Tensor = module().detach()
    first = lowest = subspace_losses(best, fitted, held)[1]
    waited = 0
    for step in range(options.fit_steps + 1):
        rows = module()
        loss, current = subspace_losses(rows, fitted, held)
        better, improved = current.detach() < lowest, bool((current.detach() < lowest - GAIN).any())
        best = torch.where(better[:, None, None], rows.detach(), best)
        lowest = torch.where(better, current.detach(), lowest)
        waited = 0 if step == 0 or improved else waited + 1
        if step == options.fit_steps or waited > PATIENCE:
            break
        optimiser.zero_grad()
        torch.autograd.backward(loss.sum())
        optimiser.step()
    by_block = zip(inputs.layers, first.tolist(), lowest.tolist(), strict=True)
    shown = ", ".join(f"{layer} ({before:.3f} to {after:.3f})" for layer, before, after in by_block)
    rank, hidden = best.shape[1:]
    log.info(f"transform {name}: rank {rank} of {hidden}; held-back probe loss at blocks {shown}; {step} steps")
    return best


def split_pairs(items: Sequence[PromptItem], n: int, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Return pairs to fit on and pairs held back (at least one): whole prompts, unless all pairs share one."""
    groups: dict[str, list[int]] = {}
    for i in range(n):
        groups.setdefault(items[i].cluster if items else str(i), []).append(i)
    limit = max(1, round(HELD_BACK * n))
    shuffled = [list(groups.values())[g] for g in torch.randperm(len(groups), generator=generator).tolist()]
    held: list[int] = []
    for group in shuffled:
        held += group if len(held) + len(group) <= limit else []
    held = held or torch.randperm(n, generator=generator)[:limit].tolist()
    return sorted(set(range(n)) - set(held)), sorted(held)
