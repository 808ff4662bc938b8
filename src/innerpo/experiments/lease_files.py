"""Lease files: who works on a run, in files ``<run>.<n>.json`` of which the one with the highest number counts."""

import glob
import json
import os
import re
import socket
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from innerpo.training.state import RunState, is_alive


@dataclass(frozen=True)
class Holder:
    """The content of a lease file: which process works on the run. ``machine`` tells machines apart."""

    host: str
    pid: int
    machine: str
    process_started: int = -1
    started: float = float("nan")
    """When it began, in seconds since 1970."""
    spent: float = 0.0
    """Seconds that holders before it spent on the run."""
    ended: bool = False
    """Whether it gave the run back unfinished."""


@cache
def machine() -> str:
    """Return what tells this machine from others: containers of one machine share its file locks, not its name."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    with suppress(OSError):
        return boot.read_text().strip()
    return socket.gethostname()


def latest(where: Path, name: str) -> int:
    """Return the highest number of a run's lease files; 0 where there is none."""
    return max(_numbers(where, name), default=0)


def _numbers(where: Path, name: str) -> list[int]:
    pattern = re.compile(rf"{re.escape(name)}\.(\d+)\.json")
    try:
        found = [pattern.fullmatch(entry) for entry in os.listdir(where)]  # noqa: PTH208 (as quick as it can be)
    except FileNotFoundError:
        return []
    return [int(match[1]) for match in found if match]


def remove(where: Path, name: str, last: int) -> None:
    """Remove the lease files up to a number, and what kills in the midst of writing one left."""
    for number in _numbers(where, name):
        if number <= last:
            (where / f"{name}.{number}.json").unlink(missing_ok=True)
    for left in where.glob(f".{glob.escape(name)}.*"):
        left.unlink(missing_ok=True)


def read_holder(path: Path) -> Holder | None:
    """Return the holder that a file names; None where there is none or it cannot be read."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def text_of(holder: Holder) -> str:
    """Return the text of a lease file."""
    return json.dumps(asdict(holder), indent=2) + "\n"


def works(holder: Holder, path: Path, stale: float, has_lock: bool) -> bool:
    """Whether a holder still works. ``has_lock``: we have the system's lock, so no process of this machine does."""
    if holder.ended:
        return False
    if holder.machine == machine():
        seen = RunState("training", holder.pid, socket.gethostname(), holder.process_started)
        return not has_lock and bool(is_alive(seen))
    return _age(path) < stale


def _age(path: Path) -> float:
    """Seconds since a file's last sign of life, both times by the clock of the file system."""
    probe = path.parent / f".{os.getpid()}.{threading.get_ident()}.now"
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return float("inf")  # it was removed meanwhile
    finally:
        probe.unlink(missing_ok=True)


def create(path: Path, text: str) -> bool:
    """Make a file with its text, whole from the first moment; False where it exists."""
    aside = path.parent / f".{path.name}.{os.getpid()}"
    aside.write_text(text)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            with path.open("x") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        aside.unlink(missing_ok=True)
    return True
