"""Outcomes with effects of shift, seed, prompt and both, from a latent normal variable; their true mean is known."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, ndtri

from innerpo.evaluation.statistics import Clustered, Curve, Sweep


@dataclass(frozen=True)
class Effects:
    """Standard deviations of the parts of the latent variable; an outcome is 1 where their sum is above a threshold."""

    shift: float = 0.0
    seed: float = 0.2
    shift_seed: float = 0.0
    prompt: float = 1.0
    seed_prompt: float = 0.5
    pair: float = 0.7
    seed_pair: float = 0.7

    @property
    def within(self) -> float:
        """Variance of what differs between pairs of one shift and seed."""
        return self.prompt**2 + self.seed_prompt**2 + self.pair**2 + self.seed_pair**2

    def threshold(self, p: float) -> float:
        """Return the latent mean at which the mean over all that is drawn is p."""
        return float(ndtri(p)) * float(np.sqrt(self.within + self.shift**2 + self.seed**2 + self.shift_seed**2))


def draw_sizes(rng: np.random.Generator, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 to 6 pairs for each prompt, and the prompt of each pair."""
    sizes = rng.integers(1, 7, prompts)
    return sizes, np.repeat(np.arange(prompts), sizes)


def by_prompt(values: Float[np.ndarray, "*rows pair"], sizes: np.ndarray) -> Float[np.ndarray, "*rows cluster"]:
    """Return the sums over pairs of each prompt."""
    return np.add.reduceat(values, np.r_[0, np.cumsum(sizes)[:-1]], axis=-1)


def draw_set(rng: np.random.Generator, centre: Float[np.ndarray, " seed"], prompts: int, effects: Effects) -> Clustered:
    """Return the outcomes of one set: ``centre`` is the latent mean of each seed on it."""
    sizes, index = draw_sizes(rng, prompts)
    seeds = len(centre)
    shared = effects.prompt * rng.standard_normal(prompts)[index] + effects.pair * rng.standard_normal(len(index))
    own = effects.seed_prompt * rng.standard_normal((seeds, prompts))[:, index]
    latent = centre[:, None] + shared + own + effects.seed_pair * rng.standard_normal((seeds, len(index)))
    return Clustered(by_prompt((latent > 0.0).astype(float), sizes), sizes.astype(float))


def draw_run(rng: np.random.Generator, p: float, prompts: int, effects: Effects) -> tuple[Clustered, float]:
    """Return the outcomes of one trained model, and its own true accuracy (p is the mean over models)."""
    centre = effects.threshold(p) + effects.seed * rng.standard_normal(1)
    return draw_set(rng, centre, prompts, effects), float(ndtr(centre[0] / np.sqrt(effects.within)))


def draw_suite(
    rng: np.random.Generator, p: float, shifts: int, seeds: int, prompts: int, effects: Effects
) -> list[Clustered]:
    """Return the outcomes of ``shifts`` sets under the same seeds; their true mean is p. One shift: seeds x prompts."""
    of_seeds = effects.threshold(p) + effects.seed * rng.standard_normal(seeds)
    of_shifts = effects.shift * rng.standard_normal((shifts, 1))
    centres = of_seeds + of_shifts + effects.shift_seed * rng.standard_normal((shifts, seeds))
    return [draw_set(rng, centre, prompts, effects) for centre in centres]


def draw_two(
    rng: np.random.Generator, p: float, seeds: int, prompts: int, effects: Effects, gain: float = 0.0
) -> tuple[Clustered, Clustered]:
    """Return two methods on the same prompts: they share the effects of prompts and pairs, and nothing else.

    ``gain``: what the first has more in the latent variable, half above the threshold for p and half below.
    """
    sizes, index = draw_sizes(rng, prompts)
    shared = effects.prompt * rng.standard_normal(prompts)[index] + effects.pair * rng.standard_normal(len(index))
    found = []
    for more in (gain / 2.0, -gain / 2.0):
        centre = effects.threshold(p) + more + effects.seed * rng.standard_normal((seeds, 1))
        own = effects.seed_prompt * rng.standard_normal((seeds, prompts))[:, index]
        latent = centre + shared + own + effects.seed_pair * rng.standard_normal((seeds, len(index)))
        found.append(Clustered(by_prompt((latent > 0.0).astype(float), sizes), sizes.astype(float)))
    return found[0], found[1]


def true_difference(p: float, effects: Effects, gain: float) -> float:
    """Return the true mean difference of ``draw_two``."""
    whole, centre = np.sqrt(effects.within + effects.seed**2), effects.threshold(p)
    return float(ndtr((centre + gain / 2.0) / whole) - ndtr((centre - gain / 2.0) / whole))


class Paths:
    """Accuracies as functions of strength: a latent margin that grows with strength on one set, falls on the other.

    ``trained()`` draws a method's seeds; two of them are the same method trained anew, with the same true curve.
    """

    def __init__(self, rng: np.random.Generator, seeds: int, prompts: int, sd: float = 0.15) -> None:
        self.rng, self.seeds, self.sd = rng, seeds, sd
        self.sets = []
        for slope in (1.2, -0.6):
            sizes, index = draw_sizes(rng, prompts)
            base = rng.standard_normal(prompts)[index] + rng.standard_normal(len(index))
            own = slope + 0.4 * rng.standard_normal(prompts)[index] + 0.4 * rng.standard_normal(len(index))
            self.sets.append((sizes, index, base, own))

    def trained(self) -> list[np.ndarray]:
        """Return the change of each pair's margin per unit of strength, for each seed, on both sets."""
        prompts, effect = len(self.sets[0][0]), self.sd * self.rng.standard_normal((2, self.seeds, 1))
        return [
            own * (1.0 + effect[0]) + effect[1] + 0.5 * self.rng.standard_normal((self.seeds, prompts))[:, index]
            for _, index, _, own in self.sets
        ]

    def curve(self, changes: list[np.ndarray], strengths: tuple[float, ...]) -> Curve:
        """Return the sweep of a trained method over strengths."""
        scale, sweeps = np.array(strengths)[:, None, None], []
        for (sizes, _, base, _), change in zip(self.sets, changes, strict=True):
            right = (base + scale * change > 0.0).astype(float)
            sweeps.append(Sweep(by_prompt(right, sizes), sizes.astype(float)))
        return Curve(*sweeps)


def repeated(seed: int, times: int) -> Iterator[np.random.Generator]:
    """Yield a generator of random numbers for each repetition; the same for the same seed."""
    for child in np.random.SeedSequence(seed).spawn(times):
        yield np.random.default_rng(child)
