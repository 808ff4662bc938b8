"""The subspace fit by which ``ether``, ``ortho`` and ``hra`` choose their basis, on reference states alone.

A subspace is good if, within it, the mean difference of all other prompts separates a pair's chosen from its rejected
response. The separation is measured in standard deviations of the differences, as the margin is in training:

    z_i = Q d_i        a_i = <z_i, unit(mean_{j not in c(i)} z_j)>        loss = mean_i softplus(-a_i / std(a))

Scaling the states does not change the loss, and the basis is orthonormal, so it cannot be scaled. At full rank Q is a
rotation and the loss does not depend on it. Below full rank the loss favours dimensions in which the pairs agree over
dimensions that add noise.
"""

import logging

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from innerpo.config.transform import TransformConfig
from innerpo.errors import UserError
from innerpo.methods.directions.clusters import mean_without_cluster
from innerpo.methods.directions.estimate import SCALE_FLOOR
from innerpo.methods.records import norm, unit
from innerpo.methods.transforms.transform import FitInputs

log = logging.getLogger(__name__)

HELD_BACK = 0.2
"""Share of the training pairs (whole prompts) that is held back for early stopping."""
PATIENCE, GAIN = 15, 1e-4
"""The fit stops when no layer's held-back loss has fallen by GAIN for PATIENCE steps."""
MIN_PROMPTS = 4


def subspace_losses(
    basis: Float[Tensor, "layer rank hidden"],
    d: Float[Tensor, "layer pair hidden"],
    held: Float[Tensor, "layer held hidden"],
    clusters: Int[Tensor, " pair"],
) -> tuple[Float[Tensor, " layer"], Float[Tensor, " layer"]]:
    """Return each layer's loss on the pairs d, and the loss on held-back pairs with the mean and scale of d."""
    z = d @ basis.transpose(1, 2)
    along = (z * unit(mean_without_cluster(z, clusters))).sum(-1)
    floor = SCALE_FLOOR * norm(d).square().mean(1).sqrt()
    scale = (along.var(1) + floor.square()).sqrt()[:, None]
    others = (held @ basis.transpose(1, 2) * unit(z.mean(1, keepdim=True))).sum(-1)
    return F.softplus(-along / scale).mean(1), F.softplus(-others / scale).mean(1)


def learn_basis(
    name: str, module: nn.Module, inputs: FitInputs, options: TransformConfig, step_scale: float = 1.0
) -> Float[Tensor, "layer rank hidden"]:
    """Fit a module whose forward returns a basis; return the basis of each layer's best step on held-back pairs.

    The start counts as a step, so a layer on which the fit does not generalise keeps its start. Raises UserError for
    pairs of fewer than MIN_PROMPTS prompts.
    """
    d, clusters = inputs.differences, inputs.clusters
    if (n := len(set(clusters.tolist()))) < MIN_PROMPTS:
        raise UserError(f"the transform {name!r} is learned and needs {MIN_PROMPTS} training prompts, got {n}")
    kept, held_back = split_pairs(clusters, inputs.generator("held-back prompts"))
    fitted, held, siblings = (part.to(inputs.device) for part in (d[:, kept], d[:, held_back], clusters[kept]))
    module.to(inputs.device)
    optimiser = torch.optim.Adam(module.parameters(), lr=options.fit_lr * step_scale)
    best: Tensor = module().detach()
    first = lowest = subspace_losses(best, fitted, held, siblings)[1]
    waited = 0
    for step in range(options.fit_steps + 1):
        basis = module()
        loss, current = subspace_losses(basis, fitted, held, siblings)
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


def split_pairs(clusters: Int[Tensor, " pair"], generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Return the pairs to fit on, of at least two prompts, and the pairs held back, of at least one other prompt."""
    groups: dict[int, list[int]] = {}
    for i, cluster in enumerate(clusters.tolist()):
        groups.setdefault(cluster, []).append(i)
    limit = max(1, round(HELD_BACK * len(clusters)))
    shuffled = [list(groups.values())[g] for g in torch.randperm(len(groups), generator=generator).tolist()]
    held: list[list[int]] = []
    for group in shuffled:
        fits = sum(map(len, held)) + len(group) <= limit and len(held) < len(groups) - 2
        held += [group] if fits else []
    chosen = sorted(i for group in held or [min(shuffled, key=len)] for i in group)
    return sorted(set(range(len(clusters))) - set(chosen)), chosen
