"""Summary of a data set, without a model: sizes, lengths, how often the longer response is chosen, examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows, PreferencePair, n_characters
from innerpo.data.sources import SPLITS, load_pairs
from innerpo.errors import UserError

PARTS = ("prompt", "chosen", "rejected")
N_ROWS = 3


@dataclass(frozen=True)
class SplitSummary:
    """Statistics of one split. ``missing`` is the reason where the split cannot be loaded."""

    split: str
    pairs: int = 0
    prompts: int = 0
    characters: tuple[tuple[int, int], ...] = ((0, 0),) * len(PARTS)
    """Median and maximum of the characters of prompt, chosen and rejected."""
    longer_chosen: float = float("nan")
    """Share of pairs in which the longer response is the chosen one; equal lengths count one half."""
    left_out: tuple[str, ...] = ()
    rows: tuple[PreferencePair, ...] = ()
    missing: str = ""


def describe(name: str, data: DataConfig) -> list[SplitSummary]:
    """Load and summarise both splits of a data set.

    Raises UserError if neither can be loaded; if one cannot, its summary holds the reason.
    """
    summaries, first_error = [], None
    for split in SPLITS:
        bad = BadRows()
        try:
            summaries.append(summarise(load_pairs(name, split, data, bad), split, bad))
        except UserError as e:
            first_error = first_error or e
            summaries.append(SplitSummary(split, missing=str(e)))
    if first_error and all(s.missing for s in summaries):
        raise first_error
    return summaries


def summarise(pairs: Sequence[PreferencePair], split: str, bad: BadRows) -> SplitSummary:
    """Return the statistics of one split."""
    lengths = [[n_characters(getattr(p, part)) for part in PARTS] for p in pairs]
    return SplitSummary(
        split=split,
        pairs=len(pairs),
        prompts=len({p.cluster for p in pairs}),
        characters=tuple((round(median(column)), max(column)) for column in zip(*lengths, strict=True)),
        longer_chosen=fmean((chosen > rejected) + (chosen == rejected) / 2 for _, chosen, rejected in lengths),
        left_out=tuple(bad.reasons),
        rows=tuple(pairs[:N_ROWS]),
    )
