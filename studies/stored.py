"""Scores of a study, kept in the repository: the frames of a Study as compressed parquet, without a machine's paths."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from innerpo.evaluation.study import Study, read_study
from innerpo.files import write_atomically

FRAMES = ("runs", "responses", "pairs", "sets")


def scored(folder: Path) -> list[Path]:
    """Return the runs in a folder that have been scored."""
    return [path.parent for path in sorted(folder.glob("*/headline.json"))]


def store(runs: Sequence[Path], folder: Path) -> Study:
    """Keep the scores of runs in ``folder``; return them."""
    study = read_study(runs)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FRAMES:
        frame: pl.DataFrame = getattr(study, name)
        if name == "runs":
            frame = frame.with_columns(folder=pl.col("run"))
        write_atomically(folder / f"{name}.parquet", frame.write_parquet)
    return study


def stored(folder: Path) -> Study:
    """Return the study that ``store`` kept in a folder."""
    runs, responses, pairs, sets = (pl.read_parquet(folder / f"{name}.parquet") for name in FRAMES)
    return Study(runs, responses, pairs, sets)
