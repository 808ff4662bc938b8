"""Ctrl-C while workers or jobs are at work: counted, and raised where nothing is cut in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupts:
    """How often the person asked this process to end."""

    count: int = 0

    def check(self) -> None:
        """Raise KeyboardInterrupt where one was asked for."""
        if self.count:
            raise KeyboardInterrupt


@contextmanager
def counted_interrupts() -> Iterator[Interrupts]:
    """Count SIGINT instead of raising it in the midst of anything, where this is the main thread, which alone gets it.

    One signal may raise twice (polars raises its own KeyboardInterrupt beside Python's): the second would end the
    ending of the workers.
    """
    found = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return

    def count(_number: int, _frame: FrameType | None) -> None:
        found.count += 1

    before = signal.signal(signal.SIGINT, count)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)
