"""A lease on a run: one process at a time works on it, of one machine or of several that share the folder.

Two locks, since neither is enough. The operating system's (filelock) ends with its process, however that ends, but file
systems need not pass it on to other machines. Lease files do: ``<name>.<n>.json`` is held by whoever created it. Who
finds its holder dead creates number n + 1, which only one can. A holder shows life by the time of the file, so that no
clocks are compared.
"""

import errno
import glob
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from innerpo.errors import MachineError, UserError
from innerpo.experiments.holder import Holder, age, machine, read, this_process, to_text, works
from innerpo.experiments.layout import leases
from innerpo.files import FILE_MODE, machine_errors, write_text

BEAT = 15.0
"""Seconds between signs of life."""
STALE = 180.0
"""Seconds without one after which a holder on another machine counts as dead."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What a file system that has no locks answers."""


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
        return _latest(self.path.parent, self._name) != self.number

    def check(self) -> None:
        """Raise LostLeaseError where another process has taken the run over."""
        if self.is_lost:
            raise LostLeaseError(f"{self._name} was taken over by another process; what this one did is dropped")

    def remove(self) -> None:
        """Remove the run's lease files: it is finished."""
        _remove(self.path.parent, self._name, self.number)

    @property
    def _name(self) -> str:
        return self.path.name.removesuffix(f".{self.number}.json")


@contextmanager
def lease(folder: Path, name: str, stale: float = STALE) -> Iterator[Lease | None]:
    """Hold the lease of a run of a sweep's folder while the body works; None where another process has it."""
    where = leases(folder)
    with machine_errors(where):
        where.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(where / f"{name}.lock", timeout=0, fallback_to_soft=False)
        locked = _locks(lock)
        free = locked is not False or _hangs(where, name, stale)
        held = _claim(where, name, stale, locked is True) if free else None
    try:
        if held is None:
            yield None
            return
        with _signs_of_life(held.path):
            yield held
    finally:
        if held is not None and held.path.is_file():  # not finished: who takes it up next need not wait
            with suppress(MachineError):
                write_text(held.path, to_text(replace(held.holder, ended=True)))
        lock.release(force=True)


def current_holder(folder: Path, name: str, stale: float = STALE) -> Holder | None:
    """Return who works on a run now; None where nobody does, as far as its files show."""
    number = _latest(leases(folder), name)
    path = leases(folder) / f"{name}.{number}.json"
    holder = read(path) if number else None
    return holder if holder is not None and works(holder, path, stale, has_lock=False) else None


def last_holder(folder: Path, name: str) -> Holder | None:
    """Return who last held the lease of a run, dead or alive; None where there is none."""
    number = _latest(leases(folder), name)
    return read(leases(folder) / f"{name}.{number}.json") if number else None


def _locks(lock: filelock.BaseFileLock) -> bool | None:
    """Take the operating system's lock; None on a file system that has none."""
    try:
        lock.acquire()
    except filelock.Timeout:
        return False
    except NotImplementedError:
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def _hangs(where: Path, name: str, stale: float) -> bool:
    """Whether a lock that is taken is that of a dead process of another machine, which a file server still keeps."""
    number = _latest(where, name)
    path = where / f"{name}.{number}.json"
    holder = read(path) if number else None
    return holder is not None and holder.machine != machine() and not works(holder, path, stale, has_lock=False)


def _claim(where: Path, name: str, stale: float, has_lock: bool) -> Lease | None:
    """Create the lease's next number, unless its holder works."""
    latest = _latest(where, name)
    before = read(where / f"{name}.{latest}.json") if latest else None
    spent = 0.0
    if before is None and latest and age(where / f"{name}.{latest}.json") < stale:
        return None  # it is being written, or was removed at this moment
    if before is not None:
        path = where / f"{name}.{latest}.json"
        if works(before, path, stale, has_lock):
            return None
        with suppress(OSError):
            spent = before.spent + max(0.0, path.stat().st_mtime - before.started)
    holder = this_process(spent, has_lock)
    lease = Lease(where / f"{name}.{latest + 1}.json", latest + 1, holder)
    if not _create(lease.path, to_text(holder)):
        return None
    if _latest(where, name) != lease.number:  # the number had been used and removed meanwhile
        lease.path.unlink(missing_ok=True)
        return None
    _remove(where, name, latest)
    return lease


def _latest(where: Path, name: str) -> int:
    return max(_numbers(where, name), default=0)


def _numbers(where: Path, name: str) -> list[int]:
    pattern = re.compile(rf"{re.escape(name)}\.(\d+)\.json")
    try:
        found = [pattern.fullmatch(entry) for entry in os.listdir(where)]  # noqa: PTH208 (as quick as it can be)
    except FileNotFoundError:
        return []
    return [int(match[1]) for match in found if match]


def _remove(where: Path, name: str, last: int) -> None:
    """Remove the lease files up to a number, and what kills in the midst of writing one left."""
    for number in _numbers(where, name):
        if number <= last:
            (where / f"{name}.{number}.json").unlink(missing_ok=True)
    for left in where.glob(f".{glob.escape(name)}.*"):
        left.unlink(missing_ok=True)


def _create(path: Path, text: str) -> bool:
    """Make a file with its text, whole from the first moment; False where it exists."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # a name that no other host makes
    aside = Path(name)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    aside.chmod(FILE_MODE)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            with path.open("x") as whole:
                whole.write(text)
        except FileExistsError:
            return False
    finally:
        aside.unlink(missing_ok=True)
    return True


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
