"""What is exported: the pairs of the splits of a data set, the same prompts as an evaluation set has."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from innerpo.config.data import DataConfig
from innerpo.data.pairs import PreferencePair, Text, choose_negatives, take_prompts
from innerpo.data.sources import SPLITS
from innerpo.data.training_pairs import load_split
from innerpo.errors import UserError
from innerpo.evaluation.sets import PROMPT_SEED


@dataclass(frozen=True)
class Exported:
    """What an export wrote: the files of a folder, the number of pairs in each split, and what a reader should know."""

    folder: Path
    files: tuple[Path, ...]
    pairs: dict[str, int]
    notes: tuple[str, ...] = ()


def split_pairs(
    dataset: str, split: str, data: DataConfig, max_prompts: int = 0, negatives: str = "all"
) -> list[PreferencePair]:
    """Return the pairs of a split, of ``max_prompts`` prompts (0: all): those that a run scores with that limit.

    ``negatives``: every worse response ("all"), or one for each prompt, the same each time ("one").
    """
    if max_prompts < 0:
        raise UserError(f"max_prompts must not be negative, got {max_prompts}")
    every = load_split(dataset, split, replace(data, seed=PROMPT_SEED))
    kept = take_prompts(every, max_prompts, PROMPT_SEED)
    return choose_negatives(kept, "one" if negatives == "one" else "all", PROMPT_SEED)


def splits_of(
    dataset: str, split: str, data: DataConfig, max_prompts: int = 0, negatives: str = "all"
) -> dict[str, list[PreferencePair]]:
    """Return the pairs of one split or, for "both", of train and test by their names."""
    names: Sequence[str] = SPLITS if split == "both" else (split,)
    return {name: split_pairs(dataset, name, data, max_prompts, negatives) for name in names}


def as_chat(pair: PreferencePair) -> PreferencePair:
    """Return a pair of plain texts as a user turn and two assistant turns; a pair of messages as it is."""

    def turn(role: str, text: Text) -> Text:
        return ({"role": role, "content": text},) if isinstance(text, str) else text

    return replace(
        pair,
        prompt=turn("user", pair.prompt),
        chosen=turn("assistant", pair.chosen),
        rejected=turn("assistant", pair.rejected),
    )


def plain(text: Text) -> str | list[dict[str, str]]:
    """Return a text, or messages as plain JSON types."""
    return text if isinstance(text, str) else [dict(message) for message in text]


def file_name(dataset: str) -> str:
    """Return a data set's name with nothing but letters, digits and underscores: ``genies:math`` is ``genies_math``."""
    path = Path(dataset)
    name = str(path.with_suffix("")) if path.suffix in (".jsonl", ".json", ".parquet", ".csv") else dataset
    return "_".join(filter(None, "".join(c if c.isalnum() and c.isascii() else " " for c in name).split(" ")))
