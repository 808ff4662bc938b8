"""A data set's description for a terminal: a table, what was left out, the shifts, three rows."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text as RichText

from innerpo.data.describe import PARTS, SplitSummary
from innerpo.data.pairs import PreferencePair, Text
from innerpo.data.shifts import shifts_from


def as_rich(name: str, summaries: Sequence[SplitSummary]) -> RenderableType:
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
