"""Scores of a study, kept in the repository: the frames of a Study as compressed parquet, without a machine's paths."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from innerpo.evaluation.study import Study, read_study
from innerpo.files import write_atomically

FRAMES = ("runs", "responses", "pairs", "sets")


def scored(folder: Path) -> list[Path]:
    """Return the runs in a folder that have been scored."""
    return [path.parent for path in sorted(folder.glob("*/headline.json"))]


def store(runs: Sequence[Path], folder: Path, names: Mapping[str, str]) -> Study:
    """Keep the scores of runs in ``folder``, beside those that it has of other runs; return all of them.

    ``names``: row of a table (labels.group_label) -> name that is kept in its place. A row's id changes with the fields
    that a config has; what a study calls it does not. Raises ValueError for a row without a name, which no table shows.
    """
    study = read_study(runs)
    if lacking := sorted(set(study.runs["method"]) - set(names)):
        raise ValueError(f"the study has no row for {', '.join(lacking)}; were its runs made with other options?")
    folder.mkdir(parents=True, exist_ok=True)
    before = stored(folder) if (folder / "runs.parquet").is_file() else None
    again = study.runs["run"].to_list()
    older = [] if before is None else before.runs.filter(~pl.col("run").is_in(again))["run"].to_list()
    _check_once(study, before, older, names)
    for name in FRAMES:
        frame: pl.DataFrame = getattr(study, name)
        if name == "runs":
            frame = frame.with_columns(folder=pl.col("run"), method=pl.col("method").replace(dict(names)))
        if before is not None and older:
            frame = pl.concat([getattr(before, name).filter(pl.col("run").is_in(older)), frame])
        write_atomically(folder / f"{name}.parquet", frame.write_parquet)
    return stored(folder)


def _check_once(study: Study, before: Study | None, older: Sequence[str], names: Mapping[str, str]) -> None:
    """Raise ValueError where a seed of a row would be there twice: with other weights, say. A table takes the first."""
    key = ["method", "source", "seed"]
    runs = study.runs.with_columns(pl.col("method").replace(dict(names))).select(*key, "run")
    if before is not None:
        runs = pl.concat([before.runs.filter(pl.col("run").is_in(older)).select(*key, "run"), runs])
    twice = runs.filter(pl.struct(key).is_duplicated())["run"].to_list()
    if twice:
        raise ValueError(f"one run of a study is there more than once: {', '.join(twice)}; store one of them")


def stored(folder: Path) -> Study:
    """Return the study that ``store`` kept in a folder."""
    runs, responses, pairs, sets = (pl.read_parquet(folder / f"{name}.parquet") for name in FRAMES)
    return Study(runs, responses, pairs, sets)
