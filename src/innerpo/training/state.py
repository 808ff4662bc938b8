"""What a process is doing with a run (state.json): phase, progress, process; removed when the work is done.

A reader tells a running run from a dead one by it: on the same host by the process, elsewhere by the time of the last
write. It holds nothing that a finished run needs.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from innerpo.errors import MachineError, one_line
from innerpo.files import write_text
from innerpo.progress import Reporter, Update, current_reporter, reporting
from innerpo.training.paths import STATE

log = logging.getLogger(__name__)

Phase = Literal["training", "scoring", "failed", "interrupted"]
SECONDS_BETWEEN_WRITES = 2.0


@dataclass(frozen=True)
class RunState:
    """The content of state.json. Times are seconds since 1970; counts are -1 where they are not known."""

    phase: Phase
    pid: int
    host: str
    process_started: int = -1
    """Start of the process in clock ticks since boot (Linux): a number of a process may be given out again."""
    started: float = float("nan")
    """When the phase began."""
    updated: float = float("nan")
    """When the file was written."""
    task: str = ""
    """What is being done: "training", or "scoring dpo"."""
    done: int = -1
    """Steps of the task that are done; in training optimiser steps."""
    total: int = -1
    """Steps of the task that are planned."""
    first: int = -1
    """``done`` when progress was first reported: a resumed training does not begin at 0."""
    first_time: float = float("nan")
    """When progress was first reported."""
    error: str = ""
    """Why it failed, one line."""

    @property
    def seconds_left(self) -> float:
        """Time that the rest of the task takes at the pace so far; NaN where there is none yet."""
        if self.total < 0 or self.first < 0 or self.done <= self.first:
            return float("nan")
        return (self.total - self.done) * (self.updated - self.first_time) / (self.done - self.first)


def read_state(text: str) -> RunState:
    """Return the state that a file's text holds. Raises ValueError where it holds none."""
    values = json.loads(text)
    if not isinstance(values, dict) or values.get("phase") not in get_args(Phase):
        raise ValueError(f"no phase among {', '.join(get_args(Phase))}")
    found: dict[str, Any] = {}
    for field in fields(RunState):
        value, kind = values.get(field.name), {"float": float, "int": int}.get(str(getattr(field.type, "__name__", "")))
        if value is None:
            continue
        if (kind is float and not isinstance(value, int | float)) or (kind is int and not isinstance(value, int)):
            raise ValueError(f"{field.name} is {value!r}")
        if kind is None and not isinstance(value, str):
            raise ValueError(f"{field.name} is {value!r}")
        found[field.name] = value
    if missing := {"pid", "host"} - set(found):
        raise ValueError(f"no {' and no '.join(sorted(missing))}")
    return RunState(**found)


def is_alive(state: RunState) -> bool | None:
    """Whether the process that wrote a state still runs; None where it ran on another host."""
    if state.host != socket.gethostname():
        return None
    try:
        os.kill(state.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's process; no process can have this number
        return state.pid < 2**31
    return state.process_started == process_started(state.pid)


def process_started(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; -1 for one that ended, and outside Linux."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # its name may hold spaces
    except OSError:
        return -1
    return -1 if values[0] in "ZX" else int(values[19])  # fields 3 and 22 of proc(5)


@contextmanager
def recorded_state(folder: Path, phase: Phase, write: bool = True) -> Iterator[None]:
    """Keep state.json in a run's folder while the body works on the run, and remove it at the end.

    Progress that the body reports (innerpo.progress) is written at most every 2 s and passed on. Where the body fails,
    the file says so and stays, unless the folder was made for it alone. ``write`` is False in all processes but one.
    """
    if not write:
        yield
        return
    fresh = not folder.exists()
    pid = os.getpid()
    state = RunState(phase, pid, socket.gethostname(), process_started(pid), started=time.time())
    recorder = _Recorder(folder / STATE, state, current_reporter())
    recorder.write()
    try:
        with reporting(recorder):
            yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
        text = "" if stopped else one_line(error, 500)
        recorder.state = replace(recorder.state, phase="interrupted" if stopped else "failed", error=text)
        recorder.write()
        if fresh and [p.name for p in folder.glob("*")] == [STATE]:
            recorder.remove()
            folder.rmdir()
        raise
    recorder.remove()


class _Recorder:
    """A progress.Reporter that writes what is reported into state.json, and passes it on to another."""

    def __init__(self, path: Path, state: RunState, inner: Reporter) -> None:
        self.path, self.state, self.inner = path, state, inner
        self._written = float("-inf")
        self._works = True

    @contextmanager
    def task(self, what: str, total: int | None) -> Iterator[Update]:
        with self.inner.task(what, total) as update_inner:
            self.state = replace(self.state, task=what, done=0, first=-1, total=-1 if total is None else total)

            def update(done: int, note: str = "") -> None:
                if self.state.first < 0:
                    self.state = replace(self.state, first=done, first_time=time.time())
                self.state = replace(self.state, done=done)
                if time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES or done == total:
                    self.write()
                update_inner(done, note)

            yield update

    def write(self) -> None:
        """Write the file. A run does not fail because its state cannot be written; that is logged once."""
        self._written = time.monotonic()
        self.state = replace(self.state, updated=time.time())
        known = {name: value for name, value in asdict(self.state).items() if value == value}  # JSON has no NaN
        try:
            write_text(self.path, json.dumps(known, indent=2) + "\n")
        except MachineError as error:
            if self._works:
                log.warning(f"{error}; others cannot see the progress of this run")
            self._works = False

    def remove(self) -> None:
        """Remove the file, and what a kill in the midst of an earlier write left."""
        with suppress(NotADirectoryError):
            for path in (self.path, *self.path.parent.glob(f".{STATE}.*")):
                path.unlink(missing_ok=True)
