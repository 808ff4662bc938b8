"""Tables of results and comparisons for a terminal."""

from collections.abc import Callable, Sequence

from rich.markup import escape
from rich.table import Table

from innerpo.cli.console import stdout
from innerpo.evaluation.formats import TextTable, transposed

WIDE = 6
"""Columns beyond which a table is shown with its rows as columns, where it has fewer of these."""


def text_table(found: TextTable) -> Table:
    """Return a table of text cells; the notes beneath it are the caller's to print."""
    shown = Table(title=escape(found.title), title_justify="left")
    for c, name in enumerate(found.header):
        shown.add_column(escape(name), justify="left" if c == 0 else "right")
    for r, row in enumerate(found.rows):
        cells = [escape(cell) for cell in row]
        shown.add_row(*(f"[bold]{cell}[/]" if (r, c) in found.bold else cell for c, cell in enumerate(cells)))
    return shown


def show(tables: Sequence[TextTable], format: str, rendered: Callable[[], str], turn: bool = False) -> None:
    """Print tables with their notes, or what they are in another format than text. ``turn`` wide ones."""
    if format != "text":
        stdout.print(rendered(), markup=False, emoji=False, soft_wrap=True, end="")
        return
    for table in tables:
        wide = len(table.header) > WIDE and len(table.rows) < len(table.header) - 1 and turn
        stdout.print(text_table(transposed(table) if wide else table))
        for note in table.notes:
            stdout.print(note, markup=False, emoji=False, soft_wrap=True)
