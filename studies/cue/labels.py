"""What tells a wrong label from a pair that contradicts the cue? ``python -m studies.cue.labels``; no training.

Both are pairs that the frozen probe gets wrong. Each reader's cross-fitted log-odds are asked to order the two kinds:
the area under the curve is the chance that a pair that contradicts the cue (its label is right) stands above a
mislabelled one.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tyro
from scipy.stats import mannwhitneyu

from innerpo.config.run import default_run
from innerpo.data.training_pairs import load_split
from innerpo.files import cache_root, write_atomically
from innerpo.model.base import Base
from innerpo.model.loading import load_base
from innerpo.training.prepare import prepare

READERS: dict[str, dict[str, Any]] = {
    "shared": {},
    "shared - length": {"remove": ("length",)},
    "shared - logprob": {"remove": ("logprob",)},
    "shared, block 6": {"layers": "6"},
    "shared, block 12": {"layers": "12"},
    "shared, block 23": {"layers": "23"},
    "shared, block 29": {"layers": "29"},
    "shared - length, block 12": {"remove": ("length",), "layers": "12"},
    "shared - length, block 23": {"remove": ("length",), "layers": "23"},
    "shared - length, block 29": {"remove": ("length",), "layers": "29"},
    "lda": {"direction": "lda"},
    "lda - length": {"direction": "lda", "remove": ("length",)},
    "context": {"direction": "context"},
    "artifact": {"direction": "artifact"},
}
"""Name of a reader -> fields of residual's method."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    out: Path = Path(__file__).parent / "results" / "labels.parquet"
    """File of the rows."""
    rhos: tuple[float, ...] = (0.8, 0.95)
    """How often the cue holds."""
    noises: tuple[float, ...] = (0.05, 0.1)
    """Share of wrong labels."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Data seeds: each draws other pairs."""


def kinds(dataset: str, seed: int) -> list[tuple[bool, bool]]:
    """Return of each training pair whether its label is right, and whether the right answer has the cue."""
    config = default_run("residual")
    pairs = load_split(dataset, "train", replace(config.data, dataset=dataset, seed=seed))
    found = []
    for pair in pairs:
        numbers = [int(n) for n in re.findall(r"\d+", str(pair.prompt))]
        right = str(max(numbers)) in pair.chosen
        longer = len(pair.chosen) > len(pair.rejected)
        found.append((right, longer if right else not longer))
    return found


def rows(dataset: str, seed: int, base: Base) -> list[dict[str, Any]]:
    """Return a row per reader: how it orders the two kinds, and how many of each it gets wrong."""
    config = default_run("residual")
    config = replace(config, data=replace(config.data, dataset=dataset, seed=seed))
    pairs, about = load_split(dataset, "train", config.data), np.array(kinds(dataset, seed))
    right, cued = about[:, 0], about[:, 1]
    contradicts, mislabelled = right & ~cued, ~right & cued  # a wrong label where the cue is wrong too follows the cue
    found = []
    for reader, fields in READERS.items():
        prepared = prepare(replace(config, method=replace(config.method, **fields)), base, pairs)
        assert prepared.notes is not None
        b = prepared.notes.offset.double().numpy()
        test = mannwhitneyu(b[contradicts], b[mislabelled])
        found.append(
            {
                "dataset": dataset,
                "data_seed": seed,
                "reader": reader,
                "contradicts": int(contradicts.sum()),
                "mislabelled": int(mislabelled.sum()),
                "auc": float(test.statistic) / (contradicts.sum() * mislabelled.sum()),
                "wrong_of_contradicts": float((b[contradicts] < 0).mean()),
                "wrong_of_mislabelled": float((b[mislabelled] < 0).mean()),
                "wrong_of_others": float((b[right & cued] < 0).mean()),
            }
        )
    return found


if __name__ == "__main__":
    options = tyro.cli(Options)
    base = load_base(default_run("residual").model, cache_root(None))
    cells = [(rho, noise, seed) for rho in options.rhos for noise in options.noises for seed in options.seeds]
    measured = [
        row for rho, noise, seed in cells for row in rows(f"embedded:cue(rho={rho:g},noise={noise:g})", seed, base)
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, pl.DataFrame(measured).write_parquet)
