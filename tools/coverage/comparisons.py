"""What comparisons do on simulated outcomes: false positives, power at the printed difference, gain against itself."""

import numpy as np
from scipy.optimize import brentq

from innerpo.evaluation.statistics import compare, frontier_gain, sign_flip
from innerpo.evaluation.statistics.paired import differences
from tools.coverage.simulate import Effects, Paths, draw_two, repeated, true_difference

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
OTHER_STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.9, 1.1, 1.4)


def effects_of(seeds: int) -> Effects:
    """Return the effects under which methods are compared; one seed has no effect of its own, as it is not covered."""
    return Effects(seed=0.1 if seeds > 1 else 0.0)


def false_positives(seeds: int, prompts: int, times: int, p: float = 0.5, seed: int = 1) -> dict[str, float]:
    """Return how often methods of equal accuracy are called different at .05: by the t test, and by sign flips."""
    by_t = by_flips = 0
    for rng in repeated(seed, times):
        first, second = draw_two(rng, p, seeds, prompts, effects_of(seeds))
        by_t += compare(first, second).p < 0.05
        by_flips += seeds == 1 and sign_flip(differences(first, second), draws=999) < 0.05
    return {"t": by_t / times} | ({"sign flips": by_flips / times} if seeds == 1 else {})


def power(seeds: int, prompts: int, times: int, p: float = 0.5, seed: int = 2) -> dict[str, float]:
    """Return the mean printed minimum detectable difference of a design, and how often such a difference is found."""
    effects = effects_of(seeds)
    printed = [compare(*draw_two(rng, p, seeds, prompts, effects)).detectable for rng in repeated(seed, times)]
    delta = float(np.mean(printed))
    gain = float(brentq(lambda more: true_difference(p, effects, more) - delta, 0.0, 20.0))
    found = [compare(*draw_two(rng, p, seeds, prompts, effects, gain)).p < 0.05 for rng in repeated(seed + 1, times)]
    return {"printed": delta, "power": float(np.mean(found))}


def self_gain(seeds: int, prompts: int, times: int, anew: bool, seed: int = 3) -> float:
    """Return how often the interval of a method's frontier gain over itself, at other strengths, holds 0.

    ``anew``: over the same method trained with other seeds; else over the very same adapters.
    """
    covered = 0
    for i, rng in enumerate(repeated(seed, times)):
        paths = Paths(rng, seeds, prompts)
        first = paths.trained()
        second = paths.trained() if anew else first
        found = frontier_gain(paths.curve(first, STRENGTHS), paths.curve(second, OTHER_STRENGTHS), draws=400, seed=i)
        covered += found.low <= 0.0 <= found.high
    return covered / times
