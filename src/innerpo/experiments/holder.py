"""Who holds a lease, and whether that process still works, as far as this machine can tell.

Numbers of processes are compared only within one space of such numbers: containers on one machine have spaces of their
own, the workers of several Ray nodes on one machine share one. All others are known by their signs of life alone.
"""

import json
import os
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from innerpo.training.state import RunState, is_alive, process_started


@dataclass(frozen=True)
class Holder:
    """The content of a lease file: which process works on the run."""

    host: str
    pid: int
    machine: str
    """Tells machines apart, so that two with one host name, or a machine before and after a restart, are two."""
    process_started: int = -1
    started: float = float("nan")
    """When it began, in seconds since 1970."""
    spent: float = 0.0
    """Seconds that holders before it spent on the run."""
    ended: bool = False
    """Whether it gave the run back unfinished."""
    numbers: str = ""
    """The space of process numbers in which ``pid`` is one."""
    locked: bool = True
    """Whether it had the operating system's lock too: not where the file system has none, or a dead machine's hangs."""

    @property
    def is_near(self) -> bool:
        """Whether its process can be looked at from here."""
        return self.machine == machine() and self.numbers == process_numbers()


def this_process(spent: float, locked: bool) -> Holder:
    """Return this process as a holder, from now on."""
    pid = os.getpid()
    began = process_started(pid)
    host, numbers = socket.gethostname(), process_numbers()
    return Holder(host, pid, machine(), began, time.time(), spent, numbers=numbers, locked=locked)


def works(holder: Holder, path: Path, stale: float, has_lock: bool) -> bool:
    """Whether a holder still works. ``has_lock``: we have the lock of the operating system, so that no process of this
    machine that needs it does.
    """
    if holder.ended:
        return False
    if has_lock and holder.locked and holder.machine == machine():
        return False
    if holder.is_near:
        seen = RunState("training", holder.pid, socket.gethostname(), holder.process_started)
        return bool(is_alive(seen))
    return age(path) < stale


@cache
def machine() -> str:
    """Return what tells this machine from others: its containers share it, as they share its file locks."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    with suppress(OSError):
        return boot.read_text().strip()
    return socket.gethostname()


@cache
def process_numbers() -> str:
    """Return what tells this process's space of process numbers (its PID namespace) from those of other containers."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (it is no path: pid:[4026531836])
    return socket.gethostname()


def age(path: Path) -> float:
    """Seconds since a file's last sign of life, both times by the clock of the file system.

    0 where they cannot be told: who cannot be seen to be dead is taken to live.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".now.") as probe:  # a name that no other host makes
            return os.fstat(probe.fileno()).st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0


def to_text(holder: Holder) -> str:
    """Return the content of a lease file."""
    return json.dumps(asdict(holder), indent=2) + "\n"


def read(path: Path) -> Holder | None:
    """Return the holder that a lease file names; None where there is none that can be read."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
