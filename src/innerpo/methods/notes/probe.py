"""The frozen probe's log-odds that chosen is better, cross-fitted: no pair has a part in its own."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from innerpo.errors import UserError
from innerpo.methods.directions.estimate import estimate_directions
from innerpo.methods.generators import generator_for
from innerpo.methods.notes.notes import NoteInputs

FOLDS = 10
INNER_FOLDS = 3
STEEPEST = 20.0
"""Highest slope of a calibration, in log-odds per standard deviation."""


def probe(x: NoteInputs) -> Float[Tensor, " pair"]:
    """Return b_i = s m_i, m_i = sum_l a_l <d_i, w_l> / sigma_l: the log-odds of the method's direction, in nats.

    The prompts are split into ten folds. Directions, scales, layer weights and the slope s are fitted on the pairs of
    the other folds: directions as for any method (methods/directions), s by Platt scaling on the margins of those
    pairs, measured in turn on directions fitted without a third of them. So b_i is linear in d_i, and neither the pair
    nor another of its prompt had a part in the factor.
    """
    return cross_fitted(x, lambda fit, held: _margins(x, fit, held))


def length(x: NoteInputs) -> Float[Tensor, " pair"]:
    """Return the log-odds from length alone: b_i = s times the difference of log token counts, s cross-fitted."""
    unit = spread(x.length.double())

    def margins(_: Bool[Tensor, " pair"], held: Bool[Tensor, " pair"]) -> Float[Tensor, " held"]:
        return x.length.double()[held] / unit

    return cross_fitted(x, margins)


def permuted(x: NoteInputs) -> Float[Tensor, " pair"]:
    """Return the probe's offsets in a seeded random order of the pairs: the control of ``probe``."""
    found = probe(x)
    return found[torch.randperm(len(found), generator=generator_for(x.seed, "offset/permuted"))]


def reversed_(x: NoteInputs) -> Float[Tensor, " pair"]:
    """Return the probe's offsets with the opposite sign: training then leans on what the probe gets right."""
    return -probe(x)


Margins = Callable[[Bool[Tensor, " pair"], Bool[Tensor, " pair"]], Float[Tensor, " held"]]
"""(pairs to fit on, pairs held out) -> margins of those held out."""


def cross_fitted(x: NoteInputs, margins: Margins) -> Float[Tensor, " pair"]:
    """Return each pair's calibrated margin, everything fitted on the prompts of other folds."""
    found = torch.full((x.d.shape[1],), float("nan"), dtype=torch.float64)
    folds = list(_folds(x))
    for held in folds:
        rest = ~held
        others = [fold for fold in folds if fold is not held]
        groups = [torch.stack(others[i::INNER_FOLDS]).any(0) for i in range(INNER_FOLDS)]
        inner = torch.cat([margins(rest & ~group, group) for group in groups])
        found[held] = slope(inner) * margins(rest, held)
    return found.float()


def slope(margins: Float[Tensor, " pair"]) -> float:
    """Return s that maximises the likelihood of sigmoid(s m) for pairs whose chosen response is the better one.

    Without an intercept, as swapping a pair's responses changes the sign of m. Platt's targets (1999) keep s finite
    where every margin is positive: (N + 1) / (N + 2) in place of 1. At least 0: a probe that does worse than chance on
    other pairs says nothing.
    """
    m = margins.double()
    target = (len(m) + 1.0) / (len(m) + 2.0)

    def loss(s: float) -> float:
        return float(-(target * torch.nn.functional.logsigmoid(s * m)).mean() - (1 - target) * _log_not(s, m))

    size = float(spread(m))
    best = minimize_scalar(loss, bounds=(0.0, STEEPEST / size), method="bounded", options={"xatol": 1e-6})
    return float(best.x) if loss(float(best.x)) < loss(0.0) else 0.0  # the search never returns the bound itself


def spread(m: Float[Tensor, " pair"]) -> Float[Tensor, ""]:
    """Return the standard deviation, the unit of margins; their root mean square where they are all alike, never 0."""
    alike, size = m.std(), m.square().mean().sqrt()
    return torch.where(alike > 1e-9 * size, alike, size).clamp(min=1e-12)


def _log_not(s: float, m: Float[Tensor, " pair"]) -> float:
    return float(torch.nn.functional.logsigmoid(-s * m).mean())


def _margins(x: NoteInputs, fit: Bool[Tensor, " pair"], held: Bool[Tensor, " pair"]) -> Float[Tensor, " held"]:
    """Return m of the held-out pairs along directions fitted on the others."""
    clusters = torch.unique(x.clusters[fit], return_inverse=True)[1]
    nuisance = None if x.nuisance is None else x.nuisance[fit]
    spread = torch.ones(x.d.shape[0])
    d_mis = None if x.d_mis is None else x.d_mis[:, fit]
    found = estimate_directions(x.d[:, fit], spread, x.method, x.seed, nuisance, clusters, d_mis)
    along = (x.d[:, held].double() * found.w[:, None]).sum(-1)
    return (found.layer_weights / found.scale).double() @ along


def _folds(x: NoteInputs) -> Iterator[Bool[Tensor, " pair"]]:
    """Yield the pairs of each fold; a prompt's pairs lie in one fold."""
    n = int(x.clusters.max()) + 1
    if n < 4:
        raise UserError(f"offsets and weights of pairs need training pairs of at least 4 prompts, got {n}")
    order = torch.randperm(n, generator=generator_for(x.seed, "folds"))
    number = torch.empty(n, dtype=torch.long)
    number[order] = torch.arange(n) % min(FOLDS, n)
    for fold in range(min(FOLDS, n)):
        yield number[x.clusters] == fold
