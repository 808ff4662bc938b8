"""The part of a folder of runs that a study file plans, and the part of a study that is one shift."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from innerpo.config.identity import run_id
from innerpo.evaluation.curves import suite_gains
from innerpo.evaluation.statistics import UNKNOWN, Estimate
from innerpo.evaluation.study import Study, select_runs
from innerpo.experiments.plan import PlannedRun


def of_the_plan(study: Study, planned: Sequence[PlannedRun]) -> Study:
    """Return the part of a study that is planned, in the rows that the plan names; other runs are left out."""
    rows = {run_id(run.config): run.row for run in planned}
    runs = study.runs.filter(pl.col("run_id").is_in(list(rows)))
    runs = runs.with_columns(method=pl.col("run_id").replace_strict(rows, return_dtype=pl.String))
    own = select_runs(study, runs["run"].to_list())
    return replace(own, runs=runs)


def of_shift(study: Study, source: str, target: str) -> Study:
    """Return the runs of one source without the other targets that they were scored on."""
    own = select_runs(study, study.runs.filter(study.runs["source"] == source)["run"].to_list())
    others = own.sets.filter(pl.col("role") == "oos", pl.col("dataset") != target).select("run", "set").unique()
    frames = {
        name: getattr(own, name).join(others, on=["run", "set"], how="anti", maintain_order="left")
        for name in ("responses", "pairs", "sets")
    }
    return replace(own, **frames)


def mean_gain(study: Study, method: str, baseline: str) -> Estimate:
    """The mean frontier gain over the shifts of a study; unknown for the baseline itself, and without one."""
    if baseline in ("", method):
        return UNKNOWN
    two = study.runs.filter(pl.col("method").is_in([method, baseline]))
    if two["method"].n_unique() < 2:
        return UNKNOWN
    found = [gain for gain in suite_gains(select_runs(study, two["run"].to_list()), baseline) if gain.method == method]
    return found[0].frontier if found else UNKNOWN
