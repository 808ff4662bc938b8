"""Run a list of configs on one base model, as often as it takes: finished runs are kept, two workers share the list."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import filelock

import innerpo
from innerpo.config.labels import group_label
from innerpo.config.model import Dtype
from innerpo.config.run import RunConfig
from studies.stored import stored

log = logging.getLogger(__name__)

DTYPES = get_args(Dtype)
"""Types of the base weights: each is part of a row's id, and none of its name in a study."""


def settle(configs: Sequence[RunConfig], out: Path, kept: Path, names: Mapping[str, str], threads: int = 0) -> None:
    """Train and score every config that has no scores yet, in ``out`` or in the stored study ``kept``.

    ``names`` are those by which the stored study calls its rows. What another worker is at is left to it. Raises
    what a run raises: a study with a run that fails is to be looked at.
    """
    base, known = None, set[tuple[str, str, int]]()
    if (kept / "runs.parquet").is_file():
        known = set(stored(kept).runs.select("method", "source", "seed").rows())
    for number, config in enumerate(configs, 1):
        config = replace(config, output_dir=out, model=replace(config.model, threads=threads))
        folder = config.run_dir
        if (names[group_label(config)], config.data.dataset, config.training.seed) in known:
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(f"{folder}.lock", timeout=0):
                if (folder / "headline.json").is_file():
                    continue
                base = base or innerpo.load_base(config.model.base_model, dtype=config.model.dtype, threads=threads)
                log.warning(f"run {number} of {len(configs)}: {folder.name}")
                innerpo.train(base, config)
        except filelock.Timeout:
            continue  # another worker has it
