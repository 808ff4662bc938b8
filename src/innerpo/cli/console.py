"""What a person sees while a command runs: log lines, progress bars and errors on stderr, results on stdout."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from innerpo.errors import mark_fields
from innerpo.progress import Update, reporting

# Without emoji: what stands between two colons in a text of a model or a data set is that text.
stderr = Console(stderr=True, highlight=False, emoji=False)
# A pipe or a file has no width of its own; wide enough that the headline table does not wrap.
stdout = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)


def say(message: str) -> None:
    """Print a line on stderr, config fields as flags; of several processes only the first prints."""
    if _is_first():
        stderr.print(escape(mark_fields(message, "--")), soft_wrap=True)


def error_line(message: str) -> None:
    """Print an error as one line, whatever line breaks its parts had, config fields as flags."""
    text = mark_fields(" ".join(message.split()), "--")
    stderr.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


class Bars:
    """Progress bars on stderr that vanish when done (progress.Reporter); nothing where stderr is not a terminal."""

    @contextmanager
    def task(self, what: str, total: int | None) -> Iterator[Update]:
        """Draw the bar of a task."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        hidden = not (stderr.is_terminal and _is_first())
        with Progress(*columns, console=stderr, transient=True, disable=hidden) as display:
            bar = display.add_task(what, total=total)

            def update(done: int, note: str = "") -> None:
                display.update(bar, completed=done, description=f"{what} ({note})" if note else what)

            yield update


class LogToStderr(logging.Handler):
    """Shows the library's log as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        say(record.getMessage())


@contextmanager
def listening() -> Iterator[None]:
    """Show the library's log and progress while a command runs."""
    library, handler = logging.getLogger("innerpo"), LogToStderr()
    level = library.level
    library.addHandler(handler)
    library.setLevel(logging.INFO)
    try:
        with reporting(Bars()):
            yield
    finally:
        library.removeHandler(handler)
        library.setLevel(level)


def gigabytes(size: int) -> str:
    """``1.23 GB``, ``45 MB``."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
