"""The local launcher: worker processes on this machine, each with its GPU or its share of the CPU threads.

This process computes nothing. It starts workers, replaces those that die, and ends them when it is interrupted.
"""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from innerpo.errors import MachineError
from innerpo.experiments.attempt import failure_of, record_failure
from innerpo.experiments.interrupts import Interrupts, counted_interrupts
from innerpo.experiments.layout import logs
from innerpo.experiments.lease import last_holder
from innerpo.experiments.plan import Plan, write_plan
from innerpo.experiments.status import SweepStatus, Watch
from innerpo.experiments.worker_process import INTERRUPTED
from innerpo.files import machine_errors

log = logging.getLogger(__name__)

LOOK = 0.2
"""Seconds between looks at the workers."""
SHOW = 1.0
"""Seconds between looks at the files of the runs."""
PATIENCE = 60.0
"""Seconds that an interrupted worker has to put its run down."""
CRASHES = 3
"""A run whose worker dies this often has failed; so has a sweep whose workers die as often without a run."""

KILLS = 10
"""Deaths by a signal between runs that count as one: others may kill a few workers, a fault of a library kills all."""

ASKED = (INTERRUPTED, -signal.SIGTERM, -signal.SIGINT)
"""Exit codes of a worker that was asked to end."""


KILLED = "-"
"""Stands for no run among the counts of deaths, where a signal ended the worker."""


@dataclass
class Worker:
    """A worker process with its place among the others and the file of its log."""

    place: int
    process: subprocess.Popen[bytes]
    log: Path
    started: float = field(default_factory=time.time)


@dataclass
class Pool:
    """The workers of one sweep on this machine."""

    plan: Plan
    folder: Path
    n_workers: int
    crashes: int = CRASHES
    wait: float | None = None
    """Seconds for which an idle worker waits for runs that others are at; None = until they end."""
    workers: list[Worker] = field(default_factory=list)
    _died: Counter[str] = field(default_factory=Counter)
    _ended: int = 0

    def run(self, show: Callable[[SweepStatus], object] | None = None) -> SweepStatus:
        """Work until every run is done or has failed; return how they stand. ``show`` hears of it all the while.

        KeyboardInterrupt ends the workers, each of which leaves its run so that it can be taken up, and passes.
        """
        plan_id, watch = write_plan(self.plan, self.folder), Watch(self.plan, self.folder)
        shown = float("-inf")
        with counted_interrupts() as interrupts:
            try:
                for place in range(self.n_workers):  # one by one: where one cannot start, the others are ended
                    self.workers.append(self._start(place, plan_id))
                while self.workers:
                    time.sleep(LOOK)
                    interrupts.check()
                    for worker in [w for w in self.workers if w.process.poll() is not None]:
                        self.workers.remove(worker)
                        if worker.process.returncode != 0:
                            self._note_crash(worker, watch)
                            self.workers.append(self._start(worker.place, plan_id))
                    if show is not None and time.monotonic() - shown >= SHOW:
                        show(watch.look())
                        shown = time.monotonic()
            finally:
                self._end(interrupts)
        status = watch.look()
        if show is not None:
            show(status)
        return status

    def _start(self, place: int, plan_id: str) -> Worker:
        folder = logs(self.folder)
        with machine_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{socket.gethostname()}-{os.getpid()}-{place}.log"
            with path.open("ab") as out:
                return Worker(place, self._process(place, plan_id, out), path)

    def _process(self, place: int, plan_id: str, out: IO[bytes]) -> subprocess.Popen[bytes]:
        words = [str(self.folder), plan_id, str(os.getpid())]
        words += [] if self.wait is None else [str(self.wait)]
        return subprocess.Popen(
            [sys.executable, "-m", "innerpo.experiments.worker_process", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment(os.environ, place, self.n_workers),
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the workers in order
        )

    def _note_crash(self, worker: Worker, watch: Watch) -> None:
        """Count what a worker was at when it died, and give that up where it happens again and again.

        A worker that somebody asked to end (SIGTERM) does not count. One that was killed does (SIGKILL): so ends a
        process that takes more memory than there is. Deaths between runs count until another run has ended, those by
        a signal less: the run of a worker that seems to have none may just be taken up by another.
        """
        pid, code = worker.process.pid, worker.process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        name = self._held_by(pid, worker.started)
        log.warning(
            f"worker {worker.place + 1} died ({how}) {f'at {name}' if name else 'between runs'}; see {worker.log}"
        )
        if code in ASKED:
            return
        status = watch.look()
        if (ended := status.ended) != self._ended:
            self._ended = ended
            del self._died[""], self._died[KILLED]
        what = name or (KILLED if code < 0 else "")
        self._died[what] += 1
        if self._died[what] < self.crashes * (KILLS if what == KILLED else 1):
            return
        if not name:
            raise MachineError(f"workers die before they begin a run ({how}); the reason stands in {worker.log}")
        how += ", as the system kills what takes too much memory" if code == -signal.SIGKILL else ""
        for run in status.runs:
            if run.planned.name == name and run.state not in ("done", "failed"):
                error = f"its process died {self.crashes} times ({how}); see {worker.log}"
                record_failure(self.folder, run.planned, error)

    def _held_by(self, pid: int, since: float) -> str:
        """The run that a process was at when it died: it has its lease still, or gave it back without an outcome.

        ``since``: when it was started; another process may have had its number before.
        """
        given_back = ""
        for planned in self.plan.runs:
            holder = last_holder(self.folder, planned.name)
            if holder is not None and holder.is_near and holder.pid == pid and holder.started >= since - 1.0:
                if not holder.ended:
                    return planned.name
                if failure_of(self.folder, planned) is None:
                    given_back = planned.name
        return given_back

    def _end(self, interrupts: Interrupts) -> None:
        """Interrupt the workers, and kill those that do not end; another interrupt does not wait for them."""
        before, until = interrupts.count, time.monotonic() + PATIENCE
        _signal(self.workers, signal.SIGINT)
        while any(w.process.poll() is None for w in self.workers) and time.monotonic() < until:
            time.sleep(LOOK)
            if interrupts.count > before:
                break
        _signal(self.workers, signal.SIGKILL)
        for worker in self.workers:
            worker.process.wait()


def _signal(workers: Sequence[Worker], number: signal.Signals) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(number)


def environment(before: Mapping[str, str], place: int, n_workers: int) -> dict[str, str]:
    """Return a worker's environment: one GPU where there are any, and its share of the CPU threads.

    Threads that were set by OMP_NUM_THREADS stay as they are: the last bits of a result depend on them.
    """
    own = dict(before)
    visible = gpus(before)
    if visible:
        own["CUDA_VISIBLE_DEVICES"] = visible[place % len(visible)]
    own.setdefault("OMP_NUM_THREADS", str(max(1, cpus() // n_workers)))
    own.setdefault("TRANSFORMERS_VERBOSITY", "error")
    own.setdefault("TOKENIZERS_PARALLELISM", "false")
    return own


def gpus(before: Mapping[str, str]) -> list[str]:
    """Return the GPUs that this process may use, without loading torch."""
    if "CUDA_VISIBLE_DEVICES" in before:
        return [name for name in before["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() and name.strip() != "-1"]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout.splitlines()
    return [str(i) for i, _ in enumerate(line for line in listed if line.startswith("GPU "))]


def cpus() -> int:
    """Return the processors that this process may use: its affinity, and the quota of its control group."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(found, int(float(quota) / float(period)))) if quota != "max" else found
    except (OSError, ValueError):
        return found


def default_workers() -> int:
    """Return how many workers a sweep has where nobody says: one for each GPU, or one."""
    return max(1, len(gpus(os.environ)))
