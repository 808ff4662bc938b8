"""A process that works on a sweep: it takes one open run after another until none is left.

``run_one`` is one run under its lease, ``work`` the loop around it. Any launcher may call them in any number of
processes, on any machine that sees the folder; ``worker_process`` is a process that does.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from innerpo import run
from innerpo.config.run import RunConfig
from innerpo.errors import MachineError, UserError, is_device_lost, one_line
from innerpo.experiments.attempt import (
    Failure,
    begin,
    drop_failure,
    failure_of,
    is_trained,
    publish,
    record_failure,
)
from innerpo.experiments.lease import STALE, Lease, LostLeaseError, current_holder, lease
from innerpo.experiments.plan import Plan, PlannedRun, preferred
from innerpo.experiments.scored import is_done
from innerpo.files import cache_root
from innerpo.model.base import Base
from innerpo.model.loading import LOADED, load_base
from innerpo.training.run_folder import OtherInputsError

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between looks at runs that other processes are at."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run: done here, kept (it was done before), taken (another process is at it), or failed."""

    kind: Literal["done", "kept", "taken", "failed"]
    folder: Path
    failure: Failure | None = None


@dataclass
class Bases:
    """The base model of a worker: loaded when a run first needs it, and kept while runs need the same.

    ``given`` is a base that is in memory already, which then serves all runs.
    """

    given: Base | None = None
    _key: tuple[Any, ...] = ()
    _base: Base | None = field(default=None, repr=False)

    def of(self, config: RunConfig) -> Base:
        """Return the base model of a run. Raises UserError where it cannot be loaded."""
        if self.given is not None:
            return self.given
        key = tuple(getattr(config.model, name) for name in LOADED)
        if self._base is None or key != self._key:
            self._base = None  # its memory is free before the next one is loaded
            self._key, self._base = key, load_base(config.model, cache_root(config.data.cache_dir))
        return self._base

    def forget(self) -> None:
        """Load the next run's base again, unless it was given."""
        self._base = None


def run_one(
    planned: PlannedRun,
    folder: Path,
    bases: Bases,
    *,
    train: Callable[[RunConfig, Base], Any] = run.train,
    stale: float = STALE,
) -> Outcome:
    """Do one run of a sweep, if no other process is at it: train and score it in an attempt's folder, and publish that.

    A run that is trained but lacks scores is scored where it lies. What a run raises is kept as its failure. Only an
    interrupt passes, and the loss of the accelerator (MachineError), which would fail all later runs of this process:
    both leave what the next attempt goes on with.
    """
    place = folder / planned.name
    with lease(folder, planned.name, stale) as held:
        if held is None:
            return Outcome("taken", place)
        try:
            kept = is_done(place, planned.config)
            failure = None if kept else failure_of(folder, planned)
            if failure is not None:  # of another process, since this one looked
                return Outcome("failed", place, failure)
            if not kept:
                _do(planned, folder, bases.of(planned.config), held, train)
            drop_failure(folder, planned)
            held.remove()
            return Outcome("kept" if kept else "done", place)
        except Exception as error:
            bases.forget()  # what a failure leaves on it is not known
            if isinstance(error, LostLeaseError) or held.is_lost:
                log.warning(f"{planned.name} was taken over by another process")
                return Outcome("taken", place)
            if is_device_lost(error):
                raise MachineError(
                    f"the accelerator failed at {planned.name} ({one_line(error)}); only a new process can go on"
                ) from error
            failure = record_failure(folder, planned, error)
            log.error(f"{planned.name} failed: {failure.error}", exc_info=not isinstance(error, UserError))
            return Outcome("failed", place, failure)


def _do(planned: PlannedRun, folder: Path, base: Base, held: Lease, train: Callable[[RunConfig, Base], Any]) -> None:
    config, place = replace(planned.config, output_dir=folder), folder / planned.name
    if is_trained(place):
        log.info(f"{planned.name} is trained: scoring it")
        run.evaluate(place, config, base, strict=True)
        return
    if place.exists():
        raise UserError(
            f"{place} holds a run that another program began; finish it there (training.resume), or remove it"
        )
    attempt = begin(folder, config, held.number)
    try:
        train(attempt, base)
    except OtherInputsError as error:
        raise UserError(
            f"{planned.name} was begun on other data or another base model; restore them, or let it begin anew by the "
            "option retry_failed"
        ) from error
    publish(planned, folder, attempt, held)


def work(
    plan: Plan,
    folder: Path,
    base: Base | None = None,
    *,
    train: Callable[[RunConfig, Base], Any] = run.train,
    stale: float = STALE,
    wait: bool | float = True,
    each: Callable[[PlannedRun, Outcome], None] | None = None,
) -> None:
    """Do the runs of a plan that are open, one after another, until every one is done or has failed.

    Runs that others are at are waited for, in case these others die: for so many seconds since there was work, if
    ``wait`` is a number, and not at all if it is False. ``each`` hears of every run that ended here. An interrupt
    leaves the current run so that it can be taken up.
    """
    bases, last, todo = Bases(base), None, list(plan.runs)
    patience = math.inf if wait is True else float(wait)
    worked = time.monotonic()
    while todo:
        busy = {p.id: current_holder(folder, p.name, stale) is not None for p in todo}
        shared = {p.shared for p in todo if busy[p.id]}
        ended: list[PlannedRun] = []
        for planned in preferred([p for p in todo if not busy[p.id]], last, shared):
            if failure_of(folder, planned) is not None:
                ended.append(planned)
                continue
            outcome = run_one(planned, folder, bases, train=train, stale=stale)
            if outcome.kind != "taken":
                ended.append(planned)
                if each is not None:
                    each(planned, outcome)
            if outcome.kind in ("done", "failed"):
                last = planned
                break  # others have gone on meanwhile: choose again
        todo = [p for p in todo if p not in ended]
        if ended:
            worked = time.monotonic()
        elif todo:
            if time.monotonic() - worked >= patience:
                log.info(f"others are at what is left ({len(todo)} runs)")
                return
            time.sleep(POLL)
