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


_SILENT = _Silent()
_reporter: ContextVar[Reporter] = ContextVar("_reporter", default=_SILENT)


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


def track(steps: Iterable[T], what: str) -> Iterator[T]:
    """Iterate, and report each step when it is done."""
    with task(what, len(steps) if isinstance(steps, Sized) else None) as update:
        for done, step in enumerate(steps, 1):
            yield step
            update(done)
