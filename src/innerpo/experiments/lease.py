"""A lease on a run: one process at a time works on it, of one machine or of several that share the folder.

Two locks, since neither is enough. The operating system's (filelock) ends with its process, however that ends, but file
systems need not pass it on to other machines. Lease files do: ``<name>.<n>.json`` is held by whoever created it. Who
finds its holder dead creates number n + 1, which only one can. A holder shows life by the time of the file, so that no
clocks are compared.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from innerpo.errors import MachineError, UserError
from innerpo.experiments.layout import leases
from innerpo.experiments.lease_files import (
    Holder,
    create,
    latest,
    machine,
    read_holder,
    remove,
    text_of,
    works,
)
from innerpo.files import machine_errors, write_text
from innerpo.training.state import process_started

BEAT = 15.0
"""Seconds between signs of life."""
STALE = 180.0
"""Seconds without one after which a holder on another machine counts as dead."""


class LostLeaseError(UserError):
    """Another process took the run over, since this one showed no life (suspended, say). Its work is dropped."""


@dataclass(frozen=True)
class Lease:
    """A run's lease that this process holds."""

    path: Path
    number: int
    holder: Holder

    @property
    def spent(self) -> float:
        """Seconds spent on the run, by earlier holders too."""
        return self.holder.spent + time.time() - self.holder.started

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken the run over."""
        return latest(self.path.parent, self._name) != self.number

    def check(self) -> None:
        """Raise LostLeaseError where another process has taken the run over."""
        if self.is_lost:
            raise LostLeaseError(f"{self._name} was taken over by another process; what this one did is dropped")

    def remove(self) -> None:
        """Remove the run's lease files: it is finished."""
        remove(self.path.parent, self._name, self.number)

    @property
    def _name(self) -> str:
        return self.path.name.removesuffix(f".{self.number}.json")


@contextmanager
def lease(folder: Path, name: str, stale: float = STALE) -> Iterator[Lease | None]:
    """Hold the lease of a run of a sweep's folder while the body works; None where another process has it."""
    where, held = leases(folder), None
    with machine_errors(where):
        where.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(where / f"{name}.lock", timeout=0, fallback_to_soft=False)
    try:
        with machine_errors(where):
            locked = _locks(lock)
            held = _claim(where, name, stale, locked is not None) if locked is not False else None
        if held is None:
            yield None
            return
        with _signs_of_life(held.path):
            yield held
    finally:
        if held is not None and held.path.is_file():  # not finished: who takes it up next need not wait
            with suppress(MachineError):
                write_text(held.path, text_of(replace(held.holder, ended=True)))
        lock.release(force=True)


def current_holder(folder: Path, name: str, stale: float = STALE) -> Holder | None:
    """Return who works on a run now; None where nobody does, as far as its files show."""
    number = latest(leases(folder), name)
    path = leases(folder) / f"{name}.{number}.json"
    holder = read_holder(path) if number else None
    return holder if holder is not None and works(holder, path, stale, has_lock=False) else None


def last_holder(folder: Path, name: str) -> Holder | None:
    """Return who last held the lease of a run, dead or alive; None where there is none."""
    number = latest(leases(folder), name)
    return read_holder(leases(folder) / f"{name}.{number}.json") if number else None


def _locks(lock: filelock.BaseFileLock) -> bool | None:
    """Take the operating system's lock; None on a file system that has none."""
    try:
        lock.acquire()
    except filelock.Timeout:
        return False
    except NotImplementedError:
        return None
    return True


def _claim(where: Path, name: str, stale: float, has_lock: bool) -> Lease | None:
    """Create the lease's next number, unless its holder works."""
    last, spent = latest(where, name), 0.0
    path = where / f"{name}.{last}.json"
    before = read_holder(path) if last else None
    if before is not None:
        if works(before, path, stale, has_lock):
            return None
        with suppress(OSError):
            spent = before.spent + max(0.0, path.stat().st_mtime - before.started)
    pid = os.getpid()
    holder = Holder(socket.gethostname(), pid, machine(), process_started(pid), time.time(), spent)
    lease = Lease(where / f"{name}.{last + 1}.json", last + 1, holder)
    if not create(lease.path, text_of(holder)):
        return None
    if lease.is_lost:  # the number had been used and removed meanwhile
        lease.path.unlink(missing_ok=True)
        return None
    remove(where, name, last)
    return lease


@contextmanager
def _signs_of_life(path: Path) -> Iterator[None]:
    """Touch a lease file now and then while the body works."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
