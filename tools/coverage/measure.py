"""``python -m tools.coverage.measure``: simulate, write results.json, and the tables of docs/statistics.md from it."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from innerpo.evaluation.statistics import Clustered, Estimate, hierarchical_bootstrap, one_run, seeds_by_prompts, suite
from innerpo.evaluation.statistics.components import prompt_parts, total
from innerpo.evaluation.statistics.records import UNIT
from tools.coverage.comparisons import false_positives, power, self_gain
from tools.coverage.simulate import Effects, draw_run, draw_suite, repeated

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[2] / "docs/statistics.md"
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"

PROMPTS = (20, 50, 100, 250)
ACCURACIES = (0.02, 0.1, 0.5, 0.9, 0.98)
LEVELS = {
    "one run": (1, 1),
    "3 seeds": (1, 3),
    "5 seeds": (1, 5),
    "10 seeds": (1, 10),
    "5 shifts x 5 seeds": (5, 5),
    "15 shifts x 5 seeds": (15, 5),
}
"""Shifts and seeds of each level."""

OF_SUITES = Effects(shift=0.4, shift_seed=0.15)


def pairs_as_independent(data: Clustered) -> Estimate:
    """Return the interval that ignores prompts and seeds: every pair of every seed counts as one prompt of its own."""
    pairs, right = int(data.counts.sum()) * data.n_seeds, round(float(data.sums.sum()))
    values = (np.arange(pairs) < right).astype(float)
    return one_run(Clustered(values[None], np.ones(pairs)))


def satterthwaite(data: Clustered) -> Estimate:
    """Return mean -+ t se with Satterthwaite's single degrees of freedom (1946) from the same parts."""
    parts, mean = prompt_parts(data, UNIT), data.mean
    df = total(parts) ** 2 / sum(part.variance**2 / part.df for part in parts)
    half = float(stdtrit(df, 0.975)) * math.sqrt(total(parts))
    return Estimate(mean, mean - half, mean + half, 0, 0)


RIVALS: dict[str, Callable[[Clustered], Estimate]] = {
    "seeds_by_prompts": seeds_by_prompts,
    "Satterthwaite's single df": satterthwaite,
    "percentiles of the hierarchical bootstrap": lambda data: hierarchical_bootstrap(data, draws=500),
    "prompts alone (`one_run` on the mean of the seeds)": one_run,
    "pairs as if independent": pairs_as_independent,
}


def coverage(shifts: int, seeds: int, prompts: int, p: float, times: int, seed: int = 0) -> float:
    """Return the share of intervals of the package that hold the truth."""
    covered = 0
    for rng in repeated(seed, times):
        if shifts == seeds == 1:
            data, truth = draw_run(rng, p, prompts, Effects())
            found = one_run(data)
        else:
            truth = p
            found = suite(draw_suite(rng, p, shifts, seeds, prompts, OF_SUITES if shifts > 1 else Effects()))
        covered += found.low <= truth <= found.high
    return covered / times


def rivals(seeds: int, p: float, times: int, effects: Effects, seed: int = 0) -> dict[str, float]:
    """Return the share that each kind of interval covers, on the same 250 prompts under several seeds."""
    covered = dict.fromkeys(RIVALS, 0)
    for rng in repeated(seed, times):
        (data,) = draw_suite(rng, p, 1, seeds, 250, effects)
        for name, interval in RIVALS.items():
            found = interval(data)
            covered[name] += found.low <= p <= found.high
    return {name: count / times for name, count in covered.items()}


def measure(times: int, only: str = "") -> dict[str, Any]:
    """Return coverages by level, prompts and accuracy; of rival intervals by seeds; and what comparisons do, by seeds.

    ``only``: one of these parts, "levels", "rivals" or "comparisons".
    """
    parts: dict[str, Callable[[], Any]] = {
        "levels": lambda: {
            name: {str(g): [coverage(*shape, g, p, times) for p in ACCURACIES] for g in PROMPTS}
            for name, shape in LEVELS.items()
        },
        "rivals": lambda: {str(s): rivals(s, 0.5, times, Effects(seed=0.4)) for s in (3, 5, 10)},
        "comparisons": lambda: {str(s): compared_with(s, times) for s in (1, 3, 5, 10)},
    }
    found = {name: part() for name, part in parts.items() if only in ("", name)}
    return {"times": times, "accuracies": ACCURACIES, **found}


def compared_with(seeds: int, times: int) -> dict[str, float]:
    """Return what comparisons of two methods on 250 prompts do, in shares of the repetitions."""
    found = {f"false positives, {name}": share for name, share in false_positives(seeds, 250, times).items()}
    found["power at the printed difference"] = power(seeds, 250, times)["power"]
    found["frontier gain over itself: 0 in the interval"] = self_gain(seeds, 250, times // 2, anew=False)
    if seeds > 1:
        found["the same, trained anew"] = self_gain(seeds, 250, times // 2, anew=True)
    return found


def tables(results: dict[str, Any]) -> str:
    """Return the results as three markdown tables."""
    lines = _head(["level", "prompts", *(f"{p:g}" for p in results["accuracies"])])
    for name, by_prompts in results["levels"].items():
        lines += [_row([name, prompts, *map(_share, shares)]) for prompts, shares in by_prompts.items()]
    for kind, first in (("rivals", "interval"), ("comparisons", "share of repetitions")):
        by_seeds = results[kind]
        names = dict.fromkeys(name for found in by_seeds.values() for name in found)
        lines += ["", *_head([first, *(f"{s} seeds" if s != "1" else "1 seed" for s in by_seeds)])]
        lines += [_row([name, *(_share(found.get(name)) for found in by_seeds.values())]) for name in names]
    return "\n".join(lines)


def _head(cells: list[str]) -> list[str]:
    left = 2 if "prompts" in cells else 1
    return [_row(cells), _row(["---"] * left + ["---:"] * (len(cells) - left))]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"


def page_with(text: str, results: dict[str, Any]) -> str:
    """Return the page with the tables between its markers."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Measure (arguments: the number of repetitions, and a part, else all); without an argument only write the page."""
    if len(sys.argv) > 1:
        before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        results = before | measure(int(sys.argv[1]), *sys.argv[2:])
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
