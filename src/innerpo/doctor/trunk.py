"""Check of the shared trunk: a loss and its gradient behind it are those of whole passes."""

from dataclasses import replace

import torch

from innerpo.doctor.setup import Setup
from innerpo.doctor.steps import length_of

MOST = 1e-5
"""Largest relative difference that rounding explains, in float32."""


def trunk_checks(setup: Setup) -> list[tuple[str, str, bool]]:
    """Compare the batch both ways, at the parameters as they are; nothing where no trunk is used."""
    started = setup.started
    if started is None or started.start is None:
        return []
    (whole, of_whole), (behind, of_behind) = (_loss(s) for s in (setup, replace(setup, batch=started)))
    loss = abs(behind - whole) / max(abs(whole), 1e-3)
    differences = [a - b for a, b in zip(of_behind, of_whole, strict=True)]
    gradient = length_of(differences) / max(length_of(of_whole), 1e-12)
    last = started.start.block - 1
    name = f"blocks 0..{last} once" if last else "block 0 once"
    found = f"{name}; from whole passes the loss differs by {loss:.1e}, the gradient by {gradient:.1e}"
    return [("trunk", found, loss <= MOST and gradient <= 10 * MOST)]


def _loss(setup: Setup) -> tuple[float, list[torch.Tensor]]:
    loss = setup.loss().per_pair.mean()
    gradient = torch.autograd.grad(loss, setup.parameters, allow_unused=True)
    return float(loss.detach()), [
        torch.zeros_like(p) if g is None else g for g, p in zip(gradient, setup.parameters, strict=True)
    ]
