"""Many runs read together: a study, the data of every table, comparison and curve over runs."""

import glob
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from innerpo.errors import UserError
from innerpo.evaluation.capability_file import read_capability
from innerpo.evaluation.facts import PAIRS, RESPONSES, SETS, Scores, read_scores
from innerpo.evaluation.study_runs import RUNS, describe_run, told_apart
from innerpo.evaluation.sweep_folder import failed_runs, runs_in

log = logging.getLogger(__name__)

_MEASURED = ["model", "strength", "set", "dataset", "split", "prompt", "response"]


@dataclass(frozen=True, eq=False)  # a study is itself only, so that results can be kept per study
class Study:
    """Runs and what was measured of them; ``run`` is the first column of all frames.

    ``runs`` has the columns study_runs.RUNS, the others those of facts.RESPONSES, PAIRS and SETS. Rows of the base
    model are kept once per run that has them. ``faults``: one line for each folder that was left out.
    ``capabilities``: target-tuned capability by data set, where a run's folder records it.
    """

    runs: pl.DataFrame
    responses: pl.DataFrame
    pairs: pl.DataFrame
    sets: pl.DataFrame
    faults: tuple[str, ...] = ()
    capabilities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    about: dict[str, Any]
    responses: pl.DataFrame
    pairs: pl.DataFrame
    sets: pl.DataFrame
    capabilities: Mapping[str, float]


def read_study(folders: str | Path | Sequence[str | Path], strict: bool = True) -> Study:
    """Read the scores of runs. ``folders``: runs, folders that hold runs (a sweep's, say), or glob patterns.

    A run's scores on other sets, in the folders ``eval-*`` beneath it, are read with it; one may also be named alone.
    A run that is given twice (the same folder or the same run id) is kept once: of a later folder only what the earlier
    ones lack. Raises UserError where a pattern matches nothing, where scores cannot be read, and where runs were scored
    against different base models; with ``strict=False`` these are left out and named in ``faults``. Raises UserError in
    any case where nothing is left.
    """
    given = [folders] if isinstance(folders, str | Path) else folders
    parts: list[_Part] = []
    faults: list[str] = []
    for name in given:
        try:
            found = _matches(name)
            faults += [line for folder in found for line in failed_runs(folder)]
            runs = [run for folder in found for run in runs_in(folder) or [folder]]
            for folder in (part for run in runs for part in _with_other_scores(run)):
                try:
                    _add(folder, parts)
                except UserError as error:
                    _fault(error, strict, faults)
        except UserError as error:
            _fault(error, strict, faults)
    if not parts:
        raise UserError(faults[0] if faults else "no runs were given; give the folders of runs that have been scored")
    return _join(parts, tuple(dict.fromkeys(faults)))


def select_runs(study: Study, runs: Sequence[str]) -> Study:
    """Return the part of a study that holds some runs, by their unique names."""
    own = pl.col("run").is_in(list(runs))
    frames = [frame.filter(own) for frame in (study.runs, study.responses, study.pairs, study.sets)]
    return replace(study, runs=frames[0], responses=frames[1], pairs=frames[2], sets=frames[3])


def _matches(given: str | Path) -> list[Path]:
    """The folders that a name or pattern stands for; a folder of that very name comes before the pattern."""
    if Path(given).is_dir():
        return [Path(given)]
    found = [Path(p) for p in sorted(glob.glob(str(given))) if Path(p).is_dir()]  # noqa: PTH207 (absolute patterns too)
    if not found:
        raise UserError(f"no folder matches {str(given)!r}; give the folder of a scored run, or a pattern in quotes")
    return found


def _with_other_scores(run: Path) -> list[Path]:
    """A run's folder, if it holds scores or nothing below it does, and those beneath it that hold other scores."""
    others = [folder for folder in sorted(run.glob("eval-*")) if list(folder.glob("scores.*"))]
    return [run, *others] if list(run.glob("scores.*")) or not others else others


def _fault(error: UserError, strict: bool, faults: list[str]) -> None:
    if strict:
        raise error
    faults.append(str(error))


def _add(folder: Path, parts: list[_Part]) -> None:
    """Read a folder and append it. Raises UserError where it cannot be read or belongs to another base."""
    if any(Path(part.about["folder"]).resolve() == folder.resolve() for part in parts):
        log.info(f"{folder} was given twice; it is kept once")
        return
    scores = read_scores(folder)
    about = describe_run(folder, scores, {part.about["run"] for part in parts})
    _check_base(about, parts)
    same = [part for part in parts if about["run_id"] and part.about["run_id"] == about["run_id"]]
    part = replace(_lacking(about, scores, same), capabilities=_capabilities(folder, scores))
    if same and not len(part.responses.filter(pl.col("model") != "base")):
        log.info(f"{folder} is the same run as {same[0].about['folder']}; it is kept once")
        return
    parts.append(part)


def _check_base(about: dict[str, Any], parts: Sequence[_Part]) -> None:
    """Raise UserError where a run was scored against another base model than those read before it."""
    for part in parts:
        theirs, ours = part.about["reference"], about["reference"]
        if theirs and ours and theirs != ours:
            raise UserError(
                f"{about['folder']} and {part.about['folder']} were scored against different base models (fingerprints "
                f"{ours} and {theirs}); compare runs of one base model"
            )


def _lacking(about: dict[str, Any], scores: Scores, known: Sequence[_Part]) -> _Part:
    """Drop the rows that are known of the same run; those of its base stay, since measures relate to them."""
    responses, pairs = scores.responses, scores.pairs
    for part in known:
        theirs = part.responses.filter(pl.col("model") != "base").select(_MEASURED)
        responses = responses.join(theirs, on=_MEASURED, how="anti", maintain_order="left")
    if known:
        left = responses.filter(pl.col("model") != "base").select("set", "prompt").unique()
        responses = responses.join(left, on=["set", "prompt"], how="semi", maintain_order="left")
        pairs = pairs.join(left, on=["set", "prompt"], how="semi", maintain_order="left")
    return _Part(about, responses, pairs, scores.sets, {})


def _capabilities(folder: Path, scores: Scores) -> dict[str, float]:
    """What the folder records of target-tuned capability, by data set."""
    data_of = dict(scores.sets.select("set", "dataset").rows())
    known = {name: value for name, value in read_capability(folder).items() if not math.isnan(value)}
    return {data_of[name]: value for name, value in known.items() if name in data_of}


def _join(parts: Sequence[_Part], faults: tuple[str, ...]) -> Study:
    """Put the parts below each other, the run's name in front."""

    def stack(name: str, schema: dict[str, Any]) -> pl.DataFrame:
        frames: list[pl.DataFrame] = [getattr(p, name) for p in parts]
        named = zip(parts, frames, strict=True)
        return pl.concat([frame.select(pl.lit(p.about["run"]).alias("run"), *schema) for p, frame in named])

    runs = pl.DataFrame(told_apart([part.about for part in parts]), RUNS)
    recorded = {dataset: value for part in reversed(parts) for dataset, value in part.capabilities.items()}
    frames = stack("responses", RESPONSES), stack("pairs", PAIRS), stack("sets", SETS)
    return Study(runs, frames[0], frames[1], frames[2], faults, recorded)
