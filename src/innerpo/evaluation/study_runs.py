"""What a folder of scores says of its run: method, source, seed, base model; and the row of a table it belongs to."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from polars.datatypes import DataTypeClass

from innerpo.config.combined import read_combined
from innerpo.config.identity import run_id
from innerpo.config.labels import group_label
from innerpo.config.yaml import read_run_config
from innerpo.evaluation.facts import Scores
from innerpo.evaluation.sweep_folder import row_of

RUNS: dict[str, DataTypeClass] = {
    "run": pl.String,  # name of the folder, made unique
    "folder": pl.String,
    "method": pl.String,  # row of a table: a sweep's name for it, or the method's label (+id where options are others)
    "source": pl.String,  # data set trained on
    "seed": pl.Int64,  # training seed; null where it is unknown (an adapter made elsewhere)
    "base_model": pl.String,
    "reference": pl.String,  # fingerprint of the base model; "" unknown
    "run_id": pl.String,  # "" for an adapter made elsewhere
}


def describe_run(folder: Path, scores: Scores, taken: set[str]) -> dict[str, Any]:
    """Return a row of RUNS. The config is that of the folder or, for scores of other sets, of the run's folder above.

    ``taken``: names that are in use. An adapter made elsewhere has its own name for its method, and no seed; a
    combined one has what its record says.
    """
    config, combined = read_run_config(folder), read_combined(folder)
    if config is None and combined is None and folder.resolve().name.startswith("eval-"):
        config, combined = read_run_config(folder.resolve().parent), read_combined(folder.resolve().parent)
    base = scores.responses.filter(pl.col("model") == "base")
    name = next(name for name in _names(folder) if name not in taken)
    row = {"run": name, "folder": str(folder), "reference": base["reference"][0] if len(base) else ""}
    if config is None:
        tests = scores.sets.filter(pl.col("role").is_in(["train", "test"]))["dataset"]
        about = (
            {"method": name, "seed": None} if combined is None else {"method": combined.label, "seed": combined.seed}
        )
        return row | about | {"source": tests[0] if len(tests) else "", "base_model": "", "run_id": ""}
    run = folder if (folder / "config.yaml").is_file() else folder.resolve().parent
    return row | {
        "method": row_of(run) or group_label(config),
        "group": group_label(config),
        "source": config.data.dataset,
        "seed": config.training.seed,
        "base_model": config.model.base_model,
        "run_id": run_id(config),
    }


def told_apart(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of RUNS in which no two kinds of run share a row of tables.

    Where sweeps gave one name to runs with different options, those get the id of their options behind it.
    """
    groups: dict[str, set[str]] = {}
    for run in runs:
        groups.setdefault(run["method"], set()).add(run.get("group", ""))
    found = []
    for run in runs:
        double = len(groups[run["method"]]) > 1 and run.get("group") != run["method"]
        name = (
            f"{run['method']}+{run['group'].partition('+')[2] or 'defaults'}" if double and run.get("group") else None
        )
        found.append({key: value for key, value in run.items() if key in RUNS} | ({"method": name} if name else {}))
    return found


def row_named(name: str, rows: Sequence[str]) -> str | None:
    """Return the row of a name: that very row, or the only one that is it with an id (``dpo`` for dpo+3fa9c1d2)."""
    alike = list(dict.fromkeys(row for row in rows if row.partition("+")[0] == name))
    return name if name in rows else alike[0] if len(alike) == 1 else None


def _names(folder: Path) -> Iterator[str]:
    """Names for a run, the shortest first: its folder's, with those above it, and numbered."""
    parts = folder.resolve().parts
    first = 2 if parts[-1].startswith("eval-") else 1
    yield from ("/".join(parts[-n:]) for n in range(first, len(parts)))
    number = 2
    while True:
        yield f"{parts[-1]} ({number})"
        number += 1
