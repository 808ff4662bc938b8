"""Run a list of configs on one base model, as often as it takes: finished runs are kept, two workers share the list."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import filelock

import innerpo
from innerpo.config.run import RunConfig

log = logging.getLogger(__name__)


def settle(configs: Sequence[RunConfig], out: Path, threads: int = 0) -> None:
    """Train and score every config that has no scores in ``out`` yet and that no other worker is at.

    Raises what a run raises: a study with a run that fails is to be looked at.
    """
    base = None
    for number, config in enumerate(configs, 1):
        config = replace(config, output_dir=out, model=replace(config.model, threads=threads))
        folder = config.run_dir
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
