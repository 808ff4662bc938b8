"""Frozen readers: every direction, pool and depth, fitted on a source's training pairs, and which pairs they order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.methods.directions.clusters import cluster_numbers
from innerpo.methods.directions.direction import direction_of
from innerpo.methods.directions.estimate import estimate_directions
from innerpo.methods.directions.nuisance import nuisance_of
from innerpo.methods.heads import HeadsReader, fit_heads
from innerpo.methods.notes.notes import NoteInputs
from innerpo.methods.notes.probe import cross_fitted, probe
from innerpo.model.forward.passes import Offsets
from studies.probes.states import POOLS, States

SEED = 1

DIRECTIONS: dict[str, dict[str, Any]] = {
    "shared": {},
    "shared - length": {"remove": ("length",)},
    "shared - logprob": {"remove": ("logprob",)},
    "shared - both": {"remove": ("length", "logprob")},
    "lda": {"direction": "lda"},
    "lda - length": {"direction": "lda", "remove": ("length",)},
    "lda - both": {"direction": "lda", "remove": ("length", "logprob")},
    "context": {"direction": "context"},
    "context - length": {"direction": "context", "remove": ("length",)},
    "artifact": {"direction": "artifact"},
}
"""Name of a direction -> fields of MethodConfig."""

Outcomes = dict[str, Float[Tensor, " pair"]]
"""By reader: 1 where the chosen response of a pair stands first, 1/2 for a tie, else 0."""


@dataclass(frozen=True)
class Pairs:
    """Pairs as rows of states: the responses that are compared, the prompt of each pair and its id."""

    states: States
    chosen: Int[Tensor, " pair"]
    rejected: Int[Tensor, " pair"]
    clusters: Int[Tensor, " pair"]
    ids: tuple[str, ...]
    prompts: tuple[str, ...]

    def d(self, pool: int, layers: list[int]) -> Float[Tensor, "layer pair hidden"]:
        """State differences at some of the measured blocks, by their places."""
        states = self.states.pooled[pool, layers]
        return states[:, self.chosen] - states[:, self.rejected]

    @property
    def heads(self) -> Float[Tensor, "block pair width"]:
        """Differences of the heads' outputs."""
        return self.states.heads[:, self.chosen] - self.states.heads[:, self.rejected]


def pairs_of(states: States) -> Pairs:
    """Return all pairs of the items that were measured."""
    starts = Offsets.of(states.items).sequences
    rows = [
        (s + c, s + r, i.cluster, pair) for s, i in zip(starts, states.items, strict=False) for c, r, pair in i.pairs
    ]
    numbers = dict(zip((i.cluster for i in states.items), cluster_numbers(states.items).tolist(), strict=True))
    return Pairs(
        states,
        torch.tensor([row[0] for row in rows]),
        torch.tensor([row[1] for row in rows]),
        torch.tensor([numbers[row[2]] for row in rows]),
        tuple(row[3] for row in rows),
        tuple(row[2] for row in rows),
    )


def plain(pairs: Pairs) -> Outcomes:
    """Return what needs no direction: the base's mean log-probability, and the longer response (in characters)."""
    s = pairs.states
    characters = torch.tensor([float(n) for item in s.items for n in item.characters])
    return {
        "base": _order(s.logps / s.n_tokens, pairs),
        "longer": _order(characters, pairs),
    }


def depths(blocks: tuple[int, ...]) -> dict[str, list[int]]:
    """Return the depths that are read: each measured block, and those of the defaults (.4, .6, .8) together."""
    return {str(block): [i] for i, block in enumerate(blocks)} | {"middle": list(range(len(blocks)))[1:-1]}


def outcomes(
    train: Pairs, mismatched: Pairs, sets: Mapping[str, Pairs], blocks: tuple[int, ...], n_heads: int
) -> Iterator[tuple[str, dict[str, Float[Tensor, " pair"]]]]:
    """Yield (reader, outcomes by set) of every direction, pool and depth, then of the heads readers.

    ``mismatched`` are the training pairs behind other pairs' prompts. Outcomes on ``train`` are cross-fitted: no pair
    has a part in the direction that orders it. Names of readers are ``direction/pool/depth``.
    """
    for direction, fields in DIRECTIONS.items():
        for p, pool in enumerate(POOLS):
            for depth, layers in depths(blocks).items():
                method = MethodConfig(name="probe", pool=pool, **fields)
                x = _inputs(train, p, layers, method)
                if direction_of(method).mismatched:
                    x = replace(x, d_mis=mismatched.d(p, layers).double())
                spread = torch.ones(len(layers))
                found = estimate_directions(x.d, spread, method, SEED, x.nuisance, x.clusters, x.d_mis)
                weight = (found.layer_weights / found.scale)[:, None, None] * found.w[:, None]
                results = {name: _sign((pairs.d(p, layers) * weight).sum((0, 2))) for name, pairs in sets.items()}
                yield f"{direction}/{pool}/{depth}", {"train": _sign(probe(x))} | results
    for name, seed in (("heads", None), ("random heads", SEED)):
        reader = fit_heads(train.heads, train.clusters, n_heads, random_seed=seed)
        results = {on: _sign(reader(pairs.heads)) for on, pairs in sets.items()}
        yield f"{name}/last/all", {"train": _heads_on_train(train, n_heads, seed)} | results


def _inputs(train: Pairs, pool: int, layers: list[int], method: MethodConfig) -> NoteInputs:
    s, both = train.states, torch.stack([train.chosen, train.rejected], 1).flatten()
    logps, n_tokens = s.logps[both], s.n_tokens[both]
    log_tokens = n_tokens.double().log()
    nuisance = nuisance_of(method.remove, logps, n_tokens) if method.remove else None
    length = log_tokens[0::2] - log_tokens[1::2]
    return NoteInputs(train.d(pool, layers).double(), train.clusters, length, nuisance, method, SEED)


def _heads_on_train(train: Pairs, n_heads: int, seed: int | None) -> Float[Tensor, " pair"]:
    """Cross-fitted like the probe: heads and directions from the prompts of the other folds."""
    d = train.heads

    def margins(fit: Bool[Tensor, " pair"], held: Bool[Tensor, " pair"]) -> Float[Tensor, " held"]:
        clusters = torch.unique(train.clusters[fit], return_inverse=True)[1]
        reader: HeadsReader = fit_heads(d[:, fit], clusters, n_heads, random_seed=seed)
        return reader(d[:, held]).double()

    x = NoteInputs(d[:1], train.clusters, torch.zeros(d.shape[1]), None, MethodConfig(name="probe"), SEED)
    return _sign(cross_fitted(x, margins))


def _order(score: Float[Tensor, " seq"], pairs: Pairs) -> Float[Tensor, " pair"]:
    return _sign(score[pairs.chosen] - score[pairs.rejected])


def _sign(margin: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    return (margin.sign().float() + 1.0) / 2.0
