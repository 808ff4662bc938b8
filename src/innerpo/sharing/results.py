"""A run's accuracies in the forms of the Hub: ``.eval_results/*.yaml``, and the ``model-index`` of a model card."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from innerpo.config.yaml import read_run_config
from innerpo.data.sources.places import on_hub
from innerpo.evaluation.facts import file_of, read_scores
from innerpo.evaluation.outcomes import pair_outcomes
from innerpo.evaluation.statistics import UNKNOWN, Estimate, accuracy

SCORER = "mean_logp"
METRIC = "pairwise accuracy by log-probability per token"
RESULTS = ".eval_results"


@dataclass(frozen=True)
class Result:
    """The accuracy of a policy (at strength 1) and of its base on one evaluation set; ``hub``: its data on the Hub."""

    set: str
    dataset: str
    split: str
    pairs: int
    accuracy: Estimate
    base: Estimate
    hub: tuple[str, str] | None = None
    note: str = ""
    """What a reader must know of the number beside the set."""


def scored_folder(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the folder whose scores are shared, and the names of those beneath whose scores are not.

    A run's own scores lie beside its adapter. A combined adapter, or one made elsewhere, has none there: its scores are
    those of its ``eval-*`` folder, if it has only one.
    """
    beneath = [path for path in sorted(folder.glob("eval-*")) if file_of(path, "responses")]
    if len(beneath) == 1 and not file_of(folder, "responses") and read_run_config(folder) is None:
        return beneath[0], ()
    return folder, tuple(path.name for path in beneath)


def results_of(folder: Path, label: str) -> tuple[Result, ...]:
    """Return the accuracies that a folder holds of the policy ``label``; none where it was not scored."""
    if not file_of(folder, "responses"):
        return ()
    scores = read_scores(folder)
    outcomes = pair_outcomes(scores, SCORER)
    found = []
    for row in scores.sets.iter_rows(named=True):
        on_set = outcomes.filter(pl.col("set") == row["set"])
        own = on_set.filter(pl.col("model") == label, pl.col("strength") == 1.0)
        base = on_set.filter(pl.col("model") == "base")
        if len(own):
            theirs = accuracy(base) if len(base) else UNKNOWN
            where = on_hub(row["dataset"])
            found.append(Result(row["set"], row["dataset"], row["split"], row["pairs"], accuracy(own), theirs, where))
    return tuple(found)


def eval_results(results: Sequence[Result]) -> dict[str, str]:
    """Return the files of ``.eval_results`` as name to YAML, one for each set whose data are on the Hub.

    Not for what was trained on: an entry has no field for the split, and a data set's page would show it as a result.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    files = {}
    for r in results:
        if r.hub is None or r.split == "train":
            continue
        notes = f"{METRIC}, {r.split} split, {r.pairs} pairs of {r.accuracy.clusters} prompts"
        notes = "; ".join([notes, f"base model {r.base.mean:.4f}", *([r.note] if r.note else [])])
        entry = EvalResultEntry(*r.hub, round(r.accuracy.mean, 4), notes=notes)
        name = re.sub(r"[^\w.-]+", "-", f"{r.set}_{r.dataset}")
        files[f"{RESULTS}/{name}.yaml"] = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
    return files


def model_index(results: Sequence[Result]) -> list[Any]:
    """Return the results as ``EvalResult`` records of huggingface_hub, for the metadata of a card."""
    from huggingface_hub import EvalResult

    def record(r: Result) -> Any:
        where = r.hub or (r.dataset, None)
        return EvalResult(
            task_type="text-generation",
            dataset_type=where[0],
            dataset_name=f"{r.dataset} ({r.set})",
            dataset_config=where[1],
            dataset_split=r.split,
            metric_type="accuracy",
            metric_name=f"{METRIC} ({r.note})" if r.note else METRIC,
            metric_value=round(r.accuracy.mean, 4),
        )

    return [record(r) for r in results]
