"""Sums of LoRA updates as one LoRA adapter: sum_i w_i s_i B_i A_i = [w_1 s_1 B_1, w_2 s_2 B_2, ...] [A_1; A_2; ...].

Exact, for different ranks and scales: the factors are put side by side, and the rank of the sum is the sum of ranks.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK = re.compile(r"(?:^|\.)(\d+)\.")


@dataclass(frozen=True)
class Factors:
    """The update B A of one weight, its scale included: ``up`` is B, ``down`` is A. ``looked_up``: of an embedding."""

    up: Float[Tensor, "out rank"]
    down: Float[Tensor, "rank in"]
    looked_up: bool = False

    @property
    def rank(self) -> int:
        """Number of columns of B."""
        return self.up.shape[1]


Update = Mapping[str, Factors]
"""The update of a model: factors by the name of the module."""


def weighted_sum(updates: Sequence[Update], weights: Sequence[float]) -> dict[str, Factors]:
    """Return sum_i w_i of some updates. A module that one of them leaves alone has an update of zero there."""
    modules = sorted({name for update in updates for name in update})
    found = {}
    for name in modules:
        parts = [(w, update[name]) for w, update in zip(weights, updates, strict=True) if name in update]
        up, down = torch.cat([_times(w, f).up for w, f in parts], 1), torch.cat([f.down for _, f in parts])
        found[name] = Factors(up, down, parts[0][1].looked_up)
    return found


def by_depth(update: Update, first: float, blocks: int = 0) -> dict[str, Factors]:
    """Return the update with the factor a + (1 - a) l / (L - 1) on block l, a = ``first``: LiNeS (arXiv 2410.17146).

    The factor rises linearly from a at block 0 to 1 at the last. ``blocks`` is L; 0 means that the last block is the
    last that the update changes. Modules before all blocks (the embedding) count as block 0, an LM head as the last.
    """
    numbers = {name: int(found[1]) for name in update if (found := _BLOCK.search(name))}
    last = (blocks or max(numbers.values(), default=0) + 1) - 1

    def factor(name: str) -> float:
        depth = numbers.get(name, 0 if update[name].looked_up else last)
        return first + (1.0 - first) * (min(depth, last) / last if last else 1.0)

    return {name: _times(factor(name), factors) for name, factors in update.items()}


def truncated(update: Update, rank: int = 0, energy: float = 1.0) -> tuple[dict[str, Factors], float]:
    """Return the best approximation of each module's update by fewer directions, and the share of energy kept.

    Energy is the sum of squared singular values (the squared Frobenius norm), over all modules. ``rank`` is the most
    directions a module keeps, 0 = all; ``energy`` the least share that it keeps, with as few as that takes. Where both
    are given, ``rank`` is the limit.
    """
    kept, total, found = 0.0, 0.0, {}
    for name, factors in update.items():
        u, s, vh = _svd(factors)
        squares = s.square()
        n = directions_for(squares, energy)
        n = max(1, min(n, rank) if rank else n)
        kept, total = kept + float(squares[:n].sum()), total + float(squares.sum())
        root = s[:n].sqrt()
        up, down = u[:, :n] * root, root[:, None] * vh[:n]
        found[name] = replace(factors, up=up.to(factors.up.dtype), down=down.to(factors.down.dtype))
    return found, kept / total if total else math.nan


def directions_for(squares: Float[Tensor, " rank"], energy: float) -> int:
    """Return the least number of directions with a share ``energy`` of the sum of squared singular values."""
    if energy >= 1.0:
        return len(squares)
    share = squares.cumsum(0) / squares.sum().clamp(min=1e-300)
    return min(len(squares), int((share < energy).sum()) + 1)


def _times(weight: float, factors: Factors) -> Factors:
    return replace(factors, up=(weight * factors.up.double()).to(factors.up.dtype))


def _svd(
    f: Factors,
) -> tuple[Float[Tensor, "out rank"], Float[Tensor, " rank"], Float[Tensor, "rank in"]]:
    """Singular value decomposition of B A in float64, through the small matrix of their triangular factors."""
    left, upper = torch.linalg.qr(f.up.double())
    right, lower = torch.linalg.qr(f.down.double().T)
    u, s, vh = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return left @ u, s, vh @ right.T
