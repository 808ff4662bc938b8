"""Jobs of a cluster that share the work of a sweep: submitted, replaced where they end too early, ended at the end.

The jobs know nothing of this process. Where it dies, they go on, as far as the cluster lets them.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from innerpo.errors import MachineError
from innerpo.experiments.interrupts import Interrupts, counted_interrupts
from innerpo.experiments.layout import logs
from innerpo.experiments.plan import Plan
from innerpo.experiments.status import SweepStatus, Watch

log = logging.getLogger(__name__)

LOOK = 2.0
"""Seconds between looks at the jobs and at the files of the runs."""
PATIENCE = 30.0
"""Seconds that jobs have to end by themselves: at the end of a sweep, and after they were told to."""
FAULTS = 3
"""A sweep is given up where each of its jobs, on average, ended so often since a run was last finished."""


@runtime_checkable
class Job(Protocol):
    """A job that was submitted. ``name`` is that by which the cluster knows it."""

    @property
    def name(self) -> str:
        """Name of the job on the cluster."""

    def ended(self) -> str | None:
        """Return None while the job waits or works; else how it ended, empty where it did so in order."""

    def cancel(self) -> None:
        """End the job, so that its run can be taken up."""


@dataclass
class Fleet:
    """The jobs of one sweep."""

    plan: Plan
    folder: Path
    n_workers: int
    submit: Callable[[], Job]
    jobs: list[Job] = field(default_factory=list)
    _finished: int = -1
    _faults: int = 0
    _refused_until: float = float("-inf")

    def run(self, show: Callable[[SweepStatus], object] | None = None) -> SweepStatus:
        """Work until every run is done or has failed; return how they stand. ``show`` hears of it all the while.

        KeyboardInterrupt ends the jobs and passes. Raises MachineError where jobs end again and again before they
        finish a run.
        """
        watch, over = Watch(self.plan, self.folder), float("inf")
        with counted_interrupts() as interrupts:
            try:
                while True:
                    status = watch.look()
                    if show is not None:
                        show(status)
                    finished = status.ended
                    if finished == len(status.runs):
                        self.jobs, over = self._at_work(), min(over, time.monotonic())
                        if not self.jobs or time.monotonic() - over >= PATIENCE:
                            return status
                    else:
                        self._keep_up(status, finished)
                    time.sleep(LOOK)
                    interrupts.check()
            finally:
                self._end(interrupts)

    def _keep_up(self, status: SweepStatus, finished: int) -> None:
        """Submit jobs where some are missing and runs wait for them."""
        if finished > self._finished:
            self._finished, self._faults = finished, 0
        before = self.jobs
        self.jobs = self._at_work()
        waiting = status.count("waiting")
        if waiting == 0 or (self.jobs and time.monotonic() < self._refused_until):
            return
        self._faults += len(before) - len(self.jobs)
        if self._faults >= FAULTS * self.n_workers:
            raise MachineError(
                f"{self._faults} jobs ended since a run was last finished; the reason stands in {logs(self.folder)}"
            )
        for _ in range(min(self.n_workers - len(self.jobs), status.count("waiting") + status.count("running"))):
            try:
                self.jobs.append(self.submit())
            except MachineError as error:
                if not self.jobs:
                    raise
                # A queue that is full or out of reach for now must not end the jobs that work.
                log.warning(f"{error}; {len(self.jobs)} of {self.n_workers} jobs are at work")
                self._refused_until = time.monotonic() + PATIENCE
                return

    def _at_work(self) -> list[Job]:
        """The jobs that have not ended. How the others did is logged."""
        found = []
        for job in self.jobs:
            how = job.ended()
            if how is None:
                found.append(job)
            elif how:
                log.warning(f"job {job.name} ended: {how}; see {logs(self.folder)}")
        return found

    def _end(self, interrupts: Interrupts) -> None:
        """End the jobs that are left, and wait for that until another interrupt."""
        before, until = interrupts.count, time.monotonic() + PATIENCE
        _cancel(self.jobs)
        while self.jobs and time.monotonic() < until and interrupts.count == before:
            self.jobs = [job for job in self.jobs if job.ended() is None]
            time.sleep(min(LOOK, 0.2))


def _cancel(jobs: Sequence[Job]) -> None:
    for job in jobs:
        with suppress(Exception):  # a cluster that cannot be reached must not hide why this one ended
            job.cancel()
