"""What a person sees while work goes on: lines on stderr, progress bars, one error line. Results go to stdout."""

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

from innerpo.progress import Update, reporting

stderr = Console(stderr=True, highlight=False)
# A pipe or a file has no width of its own; wide enough that the headline table does not wrap.
stdout = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def say(message: str) -> None:
    """Tell what the program chose or did, on stderr; of several processes only the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        stderr.print(escape(message), soft_wrap=True)


def error_line(message: str) -> None:
    """Print an error as one line, whatever line breaks its parts had."""
    stderr.print(f"[bold red]error:[/] {escape(' '.join(message.split()))}", soft_wrap=True)


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
        with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as display:
            bar = display.add_task(what, total=total)

            def update(done: int, note: str = "") -> None:
                display.update(bar, completed=done, description=f"{what} ({note})" if note else what)

            yield update


class LogToStderr(logging.Handler):
    """Shows the library's log as plain lines; of several processes only the first speaks."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        if os.environ.get("RANK", "0") == "0":
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
