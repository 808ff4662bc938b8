"""Summary of a data set for ``innerpo data NAME``: sizes, lengths, how often the longer response is chosen, examples.

It needs no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text as RichText

from innerpo.config.run import DataConfig
from innerpo.data.pairs import BadRows, PreferencePair, Text
from innerpo.data.shifts import shifts_from
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


def n_characters(text: Text) -> int:
    """Return the characters of a text, or of the contents of its messages together."""
    return len(text) if isinstance(text, str) else sum(len(m["content"]) for m in text)


def render(name: str, summaries: Sequence[SplitSummary]) -> RenderableType:
    """Return the summaries as something that rich prints: a table, what was left out, the shifts, three rows."""
    table = Table(title=RichText(name), title_justify="left")
    table.add_column("split")
    heads = [f"{part} chars (max)" for part in PARTS]
    for head in ("pairs", "prompts", *heads, "longer is chosen", "left out"):
        table.add_column(head, justify="right")
    notes: list[RenderableType] = []
    for s in summaries:
        if s.missing:
            notes.append(RichText(f"{s.split}: {s.missing}"))
            continue
        lengths = [f"{middle:,} ({most:,})" for middle, most in s.characters]
        counts = (f"{s.pairs:,}", f"{s.prompts:,}")
        table.add_row(s.split, *counts, *lengths, f"{s.longer_chosen:.3f}", f"{len(s.left_out):,}")
        if s.left_out:
            more = f" (and {len(s.left_out) - 1:,} more)" if len(s.left_out) > 1 else ""
            notes.append(RichText(f"{s.split}: left out: {s.left_out[0]}{more}"))
    shifts = shifts_from(name)
    if shifts:
        notes.append(RichText("shifts: " + ", ".join(f"{s.target} ({s.kind})" for s in shifts)))
    shown = next((s.rows for s in summaries if s.rows), ())
    return Group(table, *notes, *(_row(pair) for pair in shown))


def _row(pair: PreferencePair) -> RenderableType:
    lines = RichText(f"\n{pair.id}\n", style="bold")
    for part in PARTS:
        lines.append(f"{part:>8}  ", style="dim not bold")
        lines.append(_shown(getattr(pair, part)) + ("" if part == PARTS[-1] else "\n"), style="not bold")
    return lines


def _shown(text: Text, most: int = 240) -> str:
    """Return a text as it is stored (quoted, so that spaces and line breaks show), cut in the middle."""
    plain = text if isinstance(text, str) else "\n".join(f"<{m['role']}> {m['content']}" for m in text)
    cut = plain if len(plain) <= most else f"{plain[: most // 2]} ... {plain[-most // 2 :]}"
    return repr(cut)
