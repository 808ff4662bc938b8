"""Progress of long work, sent to the current reporter: by default one that does nothing.

A program that wants to see progress passes its own ``Reporter`` to ``reporting``; the command line's draws bars.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


Update = Callable[..., None]
"""``update(done, note="")``: ``done`` steps of the total are done; ``note`` is shown beside them (the loss, say)."""


@runtime_checkable
class Reporter(Protocol):
    """Shows tasks. ``total`` is None where the number of steps is not known."""

    def task(self, what: str, total: int | None) -> AbstractContextManager[Update]:
        """Begin a task; it ends with the context."""


class _Silent:
    def task(self, what: str, total: int | None) -> AbstractContextManager[Update]:
        return nullcontext(_ignore)


def _ignore(done: int, note: str = "") -> None: ...


SILENT = _Silent()
_reporter: ContextVar[Reporter] = ContextVar("_reporter", default=SILENT)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Send the progress of everything inside to a reporter."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def current_reporter() -> Reporter:
    """Return the reporter that progress goes to now, for one that passes on what it hears."""
    return _reporter.get()


def task(what: str, total: int | None = None) -> AbstractContextManager[Update]:
    """Begin a task of the current reporter."""
    return _reporter.get().task(what, total)


class _Part:
    """Reports the tasks inside a part of a joined task as shares of that part."""

    def __init__(self, update: Update, before: int, size: int) -> None:
        self.update, self.before, self.size = update, before, size

    def task(self, what: str, total: int | None) -> AbstractContextManager[Update]:
        """Begin a task: its steps move the joined task's bar."""

        def update(done: int, note: str = "") -> None:
            self.update(self.before + (self.size * done) // max(total or done, 1), note or what)

        return nullcontext(update)


@contextmanager
def joined(what: str, total: int) -> Iterator[Callable[[int], AbstractContextManager[None]]]:
    """Show several tasks as one: ``with part(size): ...`` for each, sizes that add up to ``total``.

    A part that turns out to need no work is done at once. Each part holds one task.
    """
    done = 0
    with task(what, total) as update:

        @contextmanager
        def part(size: int) -> Iterator[None]:
            nonlocal done
            with reporting(_Part(update, done, size)):
                yield
            done += size
            update(done)

        yield part


def track(steps: Iterable[T], what: str) -> Iterator[T]:
    """Iterate, and report each step when it is done."""
    with task(what, len(steps) if isinstance(steps, Sized) else None) as update:
        for done, step in enumerate(steps, 1):
            yield step
            update(done)
