"""Train and score: ``python -m studies.shifts.run --genies_dir=GENIES --out=outputs/shifts``. Goes on where it stopped.

Start it twice for two workers; they share the list.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from innerpo.config.evaluation import EvalConfig
from innerpo.config.labels import group_label
from innerpo.config.run import RunConfig, default_run
from studies.runner import DTYPES, settle

RESULTS = Path(__file__).parent / "results"
"""Scores that are kept in the repository."""

SOURCES = ("alpaca_low_quality", "truthful_qa")
METHODS = ("dpo", "residual", "residual-permuted")
SEEDS = (1, 2, 3)
STRENGTHS = (0.5, 1.0)


@dataclass(frozen=True)
class Options:
    """What is trained, and where it is kept."""

    out: Path = Path("outputs/shifts")
    """Folder of runs."""
    genies_dir: Path | None = None
    """Folder with GENIES data."""
    threads: int = 1
    """CPU threads of this worker."""
    dtype: str = "auto"
    """Type of the base weights."""


def runs(options: Options) -> list[RunConfig]:
    """Return all configs, seed by seed, so that an early stop leaves whole comparisons."""
    return [_config(method, source, seed, options) for seed in SEEDS for source in SOURCES for method in METHODS]


def _config(method: str, source: str, seed: int, options: Options) -> RunConfig:
    config = default_run(method)
    return replace(
        config,
        model=replace(config.model, dtype=options.dtype),  # type: ignore[arg-type]  # the loader refuses other names
        data=replace(config.data, dataset=source, genies_dir=options.genies_dir, max_train_prompts=432),
        training=replace(config.training, seed=seed, save_steps=0),
        eval=EvalConfig(sets=("test", "oos"), strengths=STRENGTHS, max_prompts=250),
    )


def names() -> dict[str, str]:
    """Return row of a study (labels.group_label) -> method, in whatever type the base was loaded."""
    return {group_label(config): config.method.name for dtype in DTYPES for config in runs(Options(dtype=dtype))}


if __name__ == "__main__":
    options = tyro.cli(Options)
    settle(runs(options), options.out, RESULTS, names(), options.threads)
