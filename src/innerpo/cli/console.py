"""What a person sees while work goes on: lines on stderr, progress bars, one error line. Results go to stdout."""

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

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

T = TypeVar("T")

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


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress display that vanishes when done; it draws nothing where stderr is not a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as display:
        yield display


def track(steps: Iterable[T], description: str) -> Iterator[T]:
    """Iterate with a progress bar."""
    with progress() as display:
        total = len(steps) if isinstance(steps, Sized) else None
        task = display.add_task(description, total=total)
        for step in steps:
            yield step
            display.advance(task)
