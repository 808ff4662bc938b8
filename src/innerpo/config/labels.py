"""The row of a table that a run belongs to, and the name of a policy at a strength."""

import functools
from dataclasses import replace
from pathlib import Path

from innerpo.config.combined import read_combined
from innerpo.config.identity import run_id
from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import read_run_config
from innerpo.registry import METHODS


def label_of_folder(folder: Path, config: RunConfig) -> str:
    """Return the name of a folder's policy in its scores: its method's label, or what the record of a combined adapter
    says; for an adapter made elsewhere, the folder's own name.
    """
    if read_run_config(folder) is not None:
        return config.method_label
    combined, name = read_combined(folder), folder.resolve().name
    if combined is not None:
        return combined.label
    return f"{name} (adapter)" if is_unadapted(name) else name  # not to be taken for the base model's own rows


def is_unadapted(name: str) -> bool:
    """Whether the name of a model in scores is that of the base, or of the base along its directions."""
    return name == "base" or name.startswith("steered ")


def scaled_label(name: str, strength: float) -> str:
    """Return the name of a policy at a strength: ``dpo x 0.5``; its own at 1. The base has no adapter to be scaled."""
    return name if strength == 1.0 or is_unadapted(name) else f"{name} x {strength:g}"


def group_label(config: RunConfig) -> str:
    """Return the row of a table that a run belongs to: its method's label, and an id where options are not defaults.

    Training seed, data set and base model are left out of the id, so that the seeds of one method form one row, and so
    do the sources of a suite. ``dpo`` with another learning rate is ``dpo+3fa9c1d2``.
    """
    label = config.method_label
    own = run_id(_neutral(config))
    known = config.method.name in METHODS and own == _default_id(label)
    return label if known else f"{label}+{own[:8]}"


@functools.cache
def _default_id(label: str) -> str:
    """Id of a method's defaults, of which a study asks once for each of its runs."""
    return run_id(_neutral(default_run(label)))


def _neutral(config: RunConfig) -> RunConfig:
    usual = RunConfig()
    return replace(
        config,
        data=replace(config.data, dataset=usual.data.dataset),
        training=replace(config.training, seed=usual.training.seed),
        model=replace(config.model, base_model=usual.model.base_model, revision=usual.model.revision),
    )
