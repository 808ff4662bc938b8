"""The texts of pairs, read again from their data sources: the facts hold none."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from innerpo.data.pairs import PreferencePair, Text
from innerpo.data.training_pairs import load_split
from innerpo.errors import UserError, one_line
from innerpo.evaluation.report.folders import config_of, runs_of
from innerpo.evaluation.sets import PROMPT_SEED
from innerpo.evaluation.study import Study
from innerpo.progress import track

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Data set and split."""


@dataclass(frozen=True)
class Texts:
    """Pairs by data set, split and id; ``notes`` name the splits that could not be read."""

    pairs: Mapping[Key, Mapping[str, PreferencePair]]
    notes: tuple[str, ...] = ()

    def of(self, dataset: str, split: str, pair: str) -> PreferencePair | None:
        """Return a pair, or None where its data set is not at hand."""
        return self.pairs.get((dataset, split), {}).get(pair)


def read_texts(study: Study) -> Texts:
    """Read every split that the study's sets come from, once, with the data options of the first run that has it."""
    splits: dict[Key, str] = {}
    folders = {run["run"]: run["folder"] for run in runs_of(study)}
    for row in _splits(study).iter_rows(named=True):
        splits.setdefault((row["dataset"], row["split"]), folders[row["run"]])
    pairs: dict[Key, Mapping[str, PreferencePair]] = {}
    notes: list[str] = []
    for (dataset, split), folder in track(list(splits.items()), "texts of pairs"):
        data = config_of(folder).data
        try:
            found = load_split(dataset, split, data if split == "train" else replace(data, seed=PROMPT_SEED))
        except UserError as error:
            notes.append(f"The texts of {dataset} ({split}) are not at hand: {one_line(error)}")
            continue
        pairs[dataset, split] = {pair.id: pair for pair in found}
    return Texts(pairs, tuple(notes))


def plain(text: Text) -> str:
    """Return a text as one string; of chat messages each with its role before it."""
    if isinstance(text, str):
        return text
    return "\n\n".join(f"[{message['role']}] {message['content']}" for message in text)


def cut(text: str, characters: int) -> str:
    """Return the beginning of a text, with an ellipsis where something is left out."""
    return text if len(text) <= characters else text[: characters - 1].rstrip() + "…"


def _splits(study: Study) -> pl.DataFrame:
    return study.responses.select("run", "dataset", "split").unique(maintain_order=True)
