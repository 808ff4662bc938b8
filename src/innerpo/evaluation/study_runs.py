"""What a folder of scores says of its run: method, source, seed, base model; and the row of a table it belongs to."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from polars.datatypes import DataTypeClass

from innerpo.config.identity import run_id
from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import read_run_config
from innerpo.evaluation.facts import Scores
from innerpo.registry import METHODS

RUNS: dict[str, DataTypeClass] = {
    "run": pl.String,  # name of the folder, made unique
    "folder": pl.String,
    "method": pl.String,  # row of a table: the method's label, with +id where options differ from its defaults
    "source": pl.String,  # data set trained on
    "seed": pl.Int64,  # training seed; null where it is unknown (an adapter made elsewhere)
    "base_model": pl.String,
    "reference": pl.String,  # fingerprint of the base model; "" unknown
    "run_id": pl.String,  # "" for an adapter made elsewhere
}


def describe_run(folder: Path, scores: Scores, taken: set[str]) -> dict[str, Any]:
    """Return a row of RUNS. The config is that of the folder or, for scores of other sets, of the run's folder above.

    ``taken``: names that are in use. An adapter made elsewhere has its own name for its method, and no seed.
    """
    config = read_run_config(folder)
    if config is None and folder.resolve().name.startswith("eval-"):
        config = read_run_config(folder.resolve().parent)
    base = scores.responses.filter(pl.col("model") == "base")
    name = next(name for name in _names(folder) if name not in taken)
    row = {"run": name, "folder": str(folder), "reference": base["reference"][0] if len(base) else ""}
    if config is None:
        tests = scores.sets.filter(pl.col("role").is_in(["train", "test"]))["dataset"]
        source = tests[0] if len(tests) else ""
        return row | {"method": name, "source": source, "seed": None, "base_model": "", "run_id": ""}
    return row | {
        "method": group_label(config),
        "source": config.data.dataset,
        "seed": config.training.seed,
        "base_model": config.model.base_model,
        "run_id": run_id(config),
    }


def group_label(config: RunConfig) -> str:
    """Return the row of a table that a run belongs to: its method's label, and an id where options are not defaults.

    Training seed, data set and base model are left out of the id, so that the seeds of one method form one row, and so
    do the sources of a suite. ``dpo`` with another learning rate is ``dpo+3fa9c1d2``.
    """
    label = config.method_label
    own = run_id(_neutral(config))
    known = config.method.name in METHODS and own == _default_id(label)
    return label if known else f"{label}+{own[:8]}"


def row_named(name: str, rows: Sequence[str]) -> str | None:
    """Return the row of a name: that very row, or the only one that is it with an id (``dpo`` for dpo+3fa9c1d2)."""
    alike = list(dict.fromkeys(row for row in rows if row.partition("+")[0] == name))
    return name if name in rows else alike[0] if len(alike) == 1 else None


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


def _names(folder: Path) -> Iterator[str]:
    """Names for a run, the shortest first: its folder's, with those above it, and numbered."""
    parts = folder.resolve().parts
    first = 2 if parts[-1].startswith("eval-") else 1
    yield from ("/".join(parts[-n:]) for n in range(first, len(parts)))
    number = 2
    while True:
        yield f"{parts[-1]} ({number})"
        number += 1
