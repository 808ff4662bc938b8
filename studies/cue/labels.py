"""What tells a wrong label from a pair that contradicts the cue? ``python -m studies.cue.labels --out=outputs/labels``.

Both are pairs that the frozen probe gets wrong. Each reader gives every training pair a number, high where it holds the
label for right: a probe's cross-fitted log-odds, the depths at which it is right, the base's own margin of
log-probabilities, or that of a policy which DPO trained on these very pairs. The area under the curve is the chance
that a pair that contradicts the cue (its label is right) stands above a mislabelled one.

Cells that are there are kept; start it twice for two workers.
"""

import itertools
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import polars as pl
import tyro
from scipy.stats import mannwhitneyu

import innerpo
from innerpo.config.evaluation import EvalConfig
from innerpo.config.run import RunConfig, default_run
from innerpo.data.pairs import PreferencePair
from innerpo.data.training_pairs import load_split
from innerpo.evaluation.joined import joined_pairs
from innerpo.evaluation.study import read_study
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
"""Name of a probe -> fields of residual's method."""

DEPTHS = {
    "depths that agree": [f"shared, block {n}" for n in (6, 12, 23, 29)],
    "depths that agree, - length": [f"shared - length, block {n}" for n in (12, 23, 29)],
}
"""Name of a reader -> the probes of which it counts those that hold the label for right."""

LOGPS = {"base, mean log-prob": (0.0, "mean_logp"), "base, sum log-prob": (0.0, "sum_logp")} | {
    "dpo, mean log-prob": (1.0, "mean_logp"),
    "dpo, sum log-prob": (1.0, "sum_logp"),
    "dpo, implicit reward": (1.0, "implicit"),
}
"""Name of a reader -> strength of DPO's adapter (0: the base) and the scorer whose margin it is."""

RESULTS = Path(__file__).parent / "results" / "labels.parquet"
"""Rows that are kept in the repository."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    out: Path = Path("outputs/labels")
    """Folder of what is measured, a file a cell."""
    threads: int = 1
    """CPU threads of this worker."""
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
    by_reader = probes(config, base, pairs) | margins(config, base, pairs)
    return [{"dataset": dataset, "data_seed": seed, "reader": reader, **judged(b, about[:, 0], about[:, 1])}
            for reader, b in by_reader.items()]  # fmt: skip


def probes(config: RunConfig, base: Base, pairs: Sequence[PreferencePair]) -> dict[str, np.ndarray]:
    """Return the log-odds of every pair by every probe, and how many depths hold its label for right."""
    found = {}
    for reader, fields in READERS.items():
        prepared = prepare(replace(config, method=replace(config.method, **fields)), base, pairs)
        assert prepared.notes is not None
        found[reader] = prepared.notes.offset.double().numpy()
    return found | {name: np.sum([found[n] > 0 for n in some], 0) - len(some) / 2 for name, some in DEPTHS.items()}


def margins(config: RunConfig, base: Base, pairs: Sequence[PreferencePair]) -> dict[str, np.ndarray]:
    """Return the margins of log-probabilities of every pair, of the base and of DPO trained on the pairs."""
    with tempfile.TemporaryDirectory() as folder:
        policy = replace(
            default_run("dpo"),
            data=config.data,
            training=replace(config.training, lr=5e-4, save_steps=0),
            eval=EvalConfig(sets=("train",), max_prompts=len(pairs)),
            output_dir=Path(folder),
        )
        study = read_study(innerpo.train(base, policy).folder)
    found = {}
    for name, (strength, scorer) in LOGPS.items():
        own = joined_pairs(study, scorer).filter(pl.col("strength") == strength)
        margin = dict(own.select("pair", pl.col("score_chosen") - pl.col("score_rejected")).rows())
        found[name] = np.array([margin[pair.id] for pair in pairs])
    return found


def judged(b: np.ndarray, right: np.ndarray, cued: np.ndarray) -> dict[str, Any]:
    """Return how a reader orders the pairs that contradict the cue and the mislabelled, and what it gets wrong.

    A wrong label where the cue is wrong too follows the cue: it is of neither kind.
    """
    contradicts, mislabelled = right & ~cued, ~right & cued
    test = mannwhitneyu(b[contradicts], b[mislabelled])
    return {
        "contradicts": int(contradicts.sum()),
        "mislabelled": int(mislabelled.sum()),
        "auc": float(test.statistic / (contradicts.sum() * mislabelled.sum())),
        "wrong_of_contradicts": float((b[contradicts] < 0).mean()),
        "wrong_of_mislabelled": float((b[mislabelled] < 0).mean()),
        "wrong_of_others": float((b[right & cued] < 0).mean()),
    }


def measure(options: Options) -> None:
    """Measure the cells that are not there yet."""
    base = load_base(replace(default_run("residual").model, threads=options.threads), cache_root(None))
    for (seed, rho, noise), path in cells(options).items():
        options.out.mkdir(parents=True, exist_ok=True)
        with suppress(filelock.Timeout), filelock.FileLock(f"{path}.lock", timeout=0):
            if not path.is_file():
                found = pl.DataFrame(rows(f"embedded:cue(rho={rho:g},noise={noise:g})", seed, base))
                write_atomically(path, found.write_parquet)


def cells(options: Options) -> dict[tuple[int, float, float], Path]:
    """Return the file of every cell: data seed, rho, share of wrong labels."""
    every = itertools.product(options.seeds, options.rhos, options.noises)
    return {c: options.out / f"rho{c[1]:g}_noise{c[2]:g}_seed{c[0]}.parquet" for c in every}


def store(files: Sequence[Path]) -> None:
    """Keep all cells in the repository. Nothing happens while another worker is at some."""
    if all(path.is_file() for path in files):
        found = pl.concat([pl.read_parquet(path) for path in files])
        write_atomically(RESULTS, found.sort("dataset", "data_seed", maintain_order=True).write_parquet)


if __name__ == "__main__":
    options = tyro.cli(Options)
    measure(options)
    store(list(cells(options).values()))
