"""The subspace fit by which ``ether``, ``ortho`` and ``hra`` choose their basis, on reference states alone.

A subspace is good if, within it, the mean difference of the other pairs separates a pair's chosen from its rejected
response. The separation is measured in standard deviations of the differences, as the margin is in training:

    z_i = Q d_i        a_i = <z_i, unit(mean_{j != i} z_j)>        loss = mean_i softplus(-a_i / std(a))

Scaling the states does not change the loss, and the basis is orthonormal, so it cannot be scaled. At full rank Q is a
rotation and the loss does not depend on it. Below full rank the loss favours dimensions in which the pairs agree over
dimensions that add noise.
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
"""Share of the training pairs (whole prompts) that is held back for early stopping."""
PATIENCE, GAIN = 15, 1e-4
"""The fit stops when no layer's held-back loss has fallen by GAIN for PATIENCE steps."""
MIN_PAIRS = 4


def subspace_losses(
    basis: Float[Tensor, "layer rank hidden"],
    d: Float[Tensor, "layer pair hidden"],
    held: Float[Tensor, "layer held hidden"],
) -> tuple[Float[Tensor, " layer"], Float[Tensor, " layer"]]:
    """Return each layer's loss on the pairs d, and the loss on held-back pairs with the mean and scale of d."""
    z, n = d @ basis.transpose(1, 2), d.shape[1]
    mean = z.mean(1, keepdim=True)
    along = (z * unit((n * mean - z) / (n - 1))).sum(-1)
    floor = SCALE_FLOOR * norm(d).square().mean(1).sqrt()
    scale = (along.var(1) + floor.square()).sqrt()[:, None]
    others = (held @ basis.transpose(1, 2) * unit(mean)).sum(-1)
    return F.softplus(-along / scale).mean(1), F.softplus(-others / scale).mean(1)


def learn_basis(
    name: str, module: nn.Module, inputs: FitInputs, options: TransformConfig, step_scale: float = 1.0
) -> Float[Tensor, "layer rank hidden"]:
    """Fit a module whose forward returns a basis; return the basis of each layer's best step on held-back pairs.

    The start counts as a step, so a layer on which the fit does not generalise keeps its start. Raises UserError for
    fewer than MIN_PAIRS pairs.
    """
    d = inputs.differences
    if d.shape[1] < MIN_PAIRS:
        raise UserError(f"the transform {name!r} is learned and needs {MIN_PAIRS} training pairs, got {d.shape[1]}")
    kept, held_back = split_pairs(inputs.items, d.shape[1], inputs.generator("held-back prompts"))
    fitted, held = (part.to(inputs.device) for part in (d[:, kept], d[:, held_back]))
    module.to(inputs.device)
    optimiser = torch.optim.Adam(module.parameters(), lr=options.fit_lr * step_scale)
    best: Tensor = module().detach()
    first = lowest = subspace_losses(best, fitted, held)[1]
    waited = 0
    for step in range(options.fit_steps + 1):
        basis = module()
        loss, current = subspace_losses(basis, fitted, held)
        better, improved = current.detach() < lowest, bool((current.detach() < lowest - GAIN).any())
        best = torch.where(better[:, None, None], basis.detach(), best)
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
    what = f"rank {rank} of {hidden}; held-back subspace fit loss at blocks {shown}"
    log.info(f"transform {name}: {what}; {step} steps")
    return best


def split_pairs(items: Sequence[PromptItem], n: int, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Return the pairs to fit on and the pairs held back (at least one): whole prompts, unless all pairs share one."""
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
