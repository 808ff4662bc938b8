"""The section on overlap: prompts of evaluation sets that nearly repeat a training prompt."""

import polars as pl

from innerpo.evaluation.overlap import NearDuplicate, near_duplicates
from innerpo.evaluation.report.cells import number, short_name, text, whole
from innerpo.evaluation.report.records import Section, Table
from innerpo.evaluation.report.texts import Texts, plain
from innerpo.evaluation.study import Study

LISTED = 20
"""Near-duplicates of a set that are listed, the most alike first."""


def overlap_section(study: Study, texts: Texts | None) -> Section | None:
    """Return how many prompts of each set nearly repeat a training prompt, and which; None where nobody looked."""
    counted = study.sets.join(study.runs.select("run", "source"), on="run").filter(pl.col("role") != "train")
    counted = counted.unique(["source", "set", "dataset", "split"], maintain_order=True)
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
    listed = _listed(counted.filter(pl.col("near") > 0), texts) if texts is not None else ()
    about = "Accuracy on prompts that were trained on, or nearly so, is not held out. Near-duplicates count those that were trained on."
    return Section("overlap", "Overlap with the training prompts", (about,), (counts, *listed))


def _listed(sets: pl.DataFrame, texts: Texts) -> tuple[Table, ...]:
    tables = []
    for row in sets.iter_rows(named=True):
        train, target = (_prompts(texts, row["source"], "train"), _prompts(texts, row["dataset"], row["split"]))
        found = near_duplicates(train, target)
        if found:
            tables.append(_table(row["set"], found))
    return tuple(tables)


def _table(name: str, found: list[NearDuplicate]) -> Table:
    rows = tuple((number(n.similarity, 2), text(n.target_text), text(n.train_text)) for n in found[:LISTED])
    notes = (f"{len(found) - LISTED} more are left out.",) if len(found) > LISTED else ()
    return Table(f"Near-duplicates in {name}", ("similarity", "its prompt", "training prompt"), rows, notes)


def _prompts(texts: Texts, dataset: str, split: str) -> list[str]:
    pairs = texts.pairs.get((dataset, split), {}).values()
    return list({pair.cluster: plain(pair.prompt) for pair in pairs}.values())
