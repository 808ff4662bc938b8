"""The section on overlap: prompts of evaluation sets that nearly repeat a training prompt."""

from collections.abc import Set
from dataclasses import replace
from typing import Any

import polars as pl

from innerpo.data.training_pairs import training_pairs
from innerpo.errors import UserError
from innerpo.evaluation.overlap import NearDuplicate, near_duplicates
from innerpo.evaluation.report.cells import number, short_name, text, whole
from innerpo.evaluation.report.folders import config_of
from innerpo.evaluation.report.records import Section, Table
from innerpo.evaluation.report.texts import Texts, plain
from innerpo.evaluation.study import Study

LISTED = 20
"""Near-duplicates of a set that are listed, the most alike first."""

ABOUT = (
    "Accuracy on prompts that were trained on, or nearly so, is not held out. Near-duplicates count those that were "
    "trained on."
)


def overlap_section(study: Study, texts: Texts | None) -> Section | None:
    """Return how many prompts of each set nearly repeat a training prompt, and which; None where nobody looked."""
    counted = study.sets.join(study.runs.select("run", "source", "folder"), on="run").filter(pl.col("role") != "train")
    counted = counted.unique(["source", "set", "dataset", "split"], keep="first", maintain_order=True)
    if not len(counted.filter(pl.col("near") >= 0)):
        return None
    rows = tuple(
        (
            text(short_name(row["source"])),
            text(row["set"]),
            whole(row["prompts"]),
            whole(row["seen"]),
            whole(row["near"] if row["near"] >= 0 else None),
        )
        for row in counted.iter_rows(named=True)
    )
    counts = Table("Prompts", ("trained on", "set", "prompts", "trained on too", "near-duplicates"), rows)
    near = counted.filter(pl.col("near") > 0).iter_rows(named=True)
    listed = () if texts is None else tuple(t for row in near if (t := _listed(row, study, texts)) is not None)
    return Section("overlap", "Overlap with the training prompts", (ABOUT,), (counts, *listed))


def _listed(row: dict[str, Any], study: Study, texts: Texts) -> Table | None:
    """The near-duplicates of a set as a table; None where the texts are not at hand."""
    scored = study.pairs.filter(pl.col("run") == row["run"], pl.col("set") == row["set"])["prompt"].unique()
    target = _prompts(texts, row["dataset"], row["split"], set(scored.to_list()))
    found = near_duplicates(_trained(row), target) if target else []
    return _table(row["set"], found) if found else None


def _trained(row: dict[str, Any]) -> list[str]:
    """The prompts that a run was trained on; none where its data set is not at hand."""
    config = config_of(row["folder"])
    try:
        pairs = training_pairs(replace(config, data=replace(config.data, dataset=row["source"])))
    except UserError:
        return []
    return list({pair.cluster: plain(pair.prompt) for pair in pairs}.values())


def _prompts(texts: Texts, dataset: str, split: str, scored: Set[str]) -> list[str]:
    pairs = texts.pairs.get((dataset, split), {}).values()
    return list({pair.cluster: plain(pair.prompt) for pair in pairs if pair.cluster in scored}.values())


def _table(name: str, found: list[NearDuplicate]) -> Table:
    rows = tuple((number(n.similarity, 2), text(n.target_text), text(n.train_text)) for n in found[:LISTED])
    notes = (f"{len(found) - LISTED} more are left out.",) if len(found) > LISTED else ()
    return Table(f"Near-duplicates in {name}", ("similarity", "its prompt", "training prompt"), rows, notes)
