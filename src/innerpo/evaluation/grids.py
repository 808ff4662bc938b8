"""Values of pairs as arrays: sums by seed and prompt of each row of a table on each set, alone and paired."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from innerpo.evaluation.columns import MEMBER, Member

Cells = Mapping[tuple[str, Member], "Grid"]
"""The sums of each row of a table on each set."""

NO_SEED = -1
"""In place of the seed of a model that was not trained (the base)."""


@dataclass(frozen=True)
class Grid:
    """Sums of values and of weights by seed and prompt, of one row of a table on one set.

    ``values``: "seed prompt", ``weights``: "prompt"; every seed was scored on all of these prompts.
    """

    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    values: Float[np.ndarray, "seed prompt"]
    weights: Float[np.ndarray, " prompt"]
    n: int

    @property
    def mean(self) -> float:
        """Mean over all seeds and prompts; NaN where a value is unknown."""
        total = len(self.seeds) * self.weights.sum()
        return float(self.values.sum() / total) if total > 0 else math.nan


def grids(values: pl.DataFrame) -> Cells:
    """Return the grid of every row on every set. ``values``: metric.VALUES.

    A model without a seed (the base) has one row of values, though every run holds its own copy; where two runs are of
    one method, source and seed the first counts. Prompts that were not scored for every seed are left out.
    """
    keys, rows = ["row", *MEMBER], once(values)
    sums = rows.group_by([*keys, "seed", "prompt"], maintain_order=True).agg(
        pl.col("value").sum(), pl.col("weight").sum(), n=pl.len()
    )
    parts = sums.partition_by(keys, as_dict=True, maintain_order=True)
    return {(str(key[0]), (str(key[1]), str(key[2]), str(key[3]), str(key[4]))): _grid(p) for key, p in parts.items()}


def once(values: pl.DataFrame) -> pl.DataFrame:
    """Return the values of one run, the first, of each row, set and seed; ``NO_SEED`` for what was not trained."""
    keys = ["row", *MEMBER, "seed"]
    trained = (pl.col("strength") != 0.0) | pl.col("model").str.starts_with("steered ")
    rows = values.with_columns(seed=pl.when(trained).then(pl.col("seed").fill_null(NO_SEED)).otherwise(NO_SEED))
    rows = rows.filter(pl.col("run") == pl.col("run").first().over(keys))
    return rows.filter(pl.col("set") == pl.col("set").first().over(keys))


def _grid(rows: pl.DataFrame) -> Grid:
    """Make the grid of one row on one set. Rows: seed, prompt, value, weight, n, one per seed and prompt."""
    seeds = tuple(rows["seed"].unique(maintain_order=True).sort().to_list())
    shared = rows.filter(pl.len().over("prompt") == len(seeds)) if len(seeds) > 1 else rows
    shared = shared.sort("prompt", "seed")
    prompts = tuple(shared["prompt"].unique(maintain_order=True).to_list())
    shape = (len(prompts), len(seeds))
    values, weights = (shared[c].to_numpy().reshape(shape).T for c in ("value", "weight"))
    n = int(shared["n"].sum()) // len(seeds)
    if not prompts:
        return Grid(seeds, prompts, values, np.zeros(0), n)
    if (weights != weights[0]).any():  # a seed was scored with fewer responses of a prompt: its mean counts as much
        values = values * np.divide(weights[0], weights, out=np.zeros(weights.shape), where=weights > 0)
    return Grid(seeds, prompts, values, weights[0], n)


def paired(a: Grid, b: Grid) -> Grid | None:
    """Return the grid of differences a - b on the prompts of both, per seed; None where they share no prompt.

    Seeds of the same number are paired; where none are the same, in their order, since seeds are exchangeable. A model
    without a seed is compared with every seed of the other.
    """
    prompts = sorted(set(a.prompts) & set(b.prompts))
    if not prompts:
        return None
    seeds, rows_a, rows_b = paired_seeds(a, b)
    at_a, at_b = (_positions(g, prompts) for g in (a, b))
    weights = a.weights[at_a]
    theirs = b.values[np.ix_(rows_b, at_b)] * np.divide(weights, b.weights[at_b])
    return Grid(seeds, tuple(prompts), a.values[np.ix_(rows_a, at_a)] - theirs, weights, round(float(weights.sum())))


def paired_seeds(a: Grid, b: Grid) -> tuple[tuple[int, ...], list[int], list[int]]:
    """The seeds of a pairing, and the rows of both grids that stand opposite."""
    if b.seeds == (NO_SEED,) or a.seeds == (NO_SEED,):
        longer = a if len(a.seeds) >= len(b.seeds) and a.seeds != (NO_SEED,) else b
        every = range(len(longer.seeds))
        return (
            longer.seeds,
            [0 if a.seeds == (NO_SEED,) else i for i in every],
            [0 if b.seeds == (NO_SEED,) else i for i in every],
        )
    common = sorted(set(a.seeds) & set(b.seeds))
    if common:
        return tuple(common), [a.seeds.index(s) for s in common], [b.seeds.index(s) for s in common]
    n = min(len(a.seeds), len(b.seeds))
    return a.seeds[:n], list(range(n)), list(range(n))


def _positions(grid: Grid, prompts: Sequence[str]) -> list[int]:
    where = {prompt: i for i, prompt in enumerate(grid.prompts)}
    return [where[prompt] for prompt in prompts]


def on_seeds(grid: Grid, seeds: Sequence[int]) -> Grid:
    """Return a grid on some seeds; a model without a seed is the same under each."""
    index = [0 if grid.seeds == (NO_SEED,) else grid.seeds.index(s) for s in seeds]
    return Grid(tuple(seeds), grid.prompts, grid.values[index], grid.weights, grid.n)


def on_prompts(grid: Grid, prompts: Sequence[str]) -> Grid:
    """Return a grid on some of its prompts."""
    index = _positions(grid, prompts)
    return Grid(grid.seeds, tuple(prompts), grid.values[:, index], grid.weights[index], grid.n)
