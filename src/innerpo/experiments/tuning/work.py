"""The work on a search: one trial after another, each under its lease, so that several processes may share a folder.

A trial whose process died is found by its free lease and is tried again with the same values.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from innerpo.config.run import RunConfig
from innerpo.errors import MachineError, UserError, is_device_lost, is_out_of_memory, one_line
from innerpo.experiments.attempt import begin
from innerpo.experiments.lease import STALE, Lease, LostLeaseError, lease
from innerpo.experiments.tuning.journal import is_hopeless, suggest
from innerpo.experiments.tuning.objective import Look, Measure
from innerpo.experiments.tuning.request import TuneRequest
from innerpo.experiments.tuning.trials import Trial, read_trial, read_trials, seconds_of, write_trial
from innerpo.training.paths import SWEEP, TRIALS

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""A trial at which the accelerator fails so often has failed."""

POLL = 0.5
"""Seconds between looks at what other processes are at."""

Objective = Callable[[RunConfig, Look], Measure]
"""Trains a trial's config in the folder that it names, and measures it."""


@dataclass(frozen=True)
class Budget:
    """Where a search ends: trials, and seconds that they take together (0: any), those of earlier commands included."""

    trials: int
    seconds: float = 0.0

    def is_spent(self, trials: Sequence[Trial]) -> bool:
        """Whether no new trial is begun."""
        return len(trials) >= self.trials or bool(self.seconds and seconds_of(trials) >= self.seconds)


def work(
    folder: Path,
    request: TuneRequest,
    budget: Budget,
    objective: Objective,
    *,
    each: Callable[[Trial], None] | None = None,
    stale: float = STALE,
) -> list[Trial]:
    """Do trials until the budget is spent and none is open; return all of them. ``each`` hears of those that end here.

    What a trial raises is kept as its failure. Of the first trial it is raised: it has the values to start from, and
    where they fail there is nothing to search. So is a fault of the machine; the trial then stays open.
    """
    while True:
        with ExitStack() as stack:
            with exclusive(folder, stale):
                taken, waiting = _take(folder, request, budget, stack, stale)
            if taken is not None:
                trial, held = taken
                ended = _do(folder, request, trial, held, objective, stale)
                if ended is not None and each is not None:
                    each(ended)
                continue
        if not waiting:
            return read_trials(folder)
        time.sleep(POLL)


def journal_of(folder: Path) -> Path:
    """The file in which Optuna keeps its view of a search."""
    return folder / "journal.log"


def space_for(folder: Path, trial: Trial) -> Path:
    """The folder in which attempts at a trial lie."""
    return folder / SWEEP / TRIALS / trial.name


@contextmanager
def exclusive(folder: Path, stale: float = STALE) -> Iterator[None]:
    """Let no other process read trials and choose the next one meanwhile."""
    while True:
        with lease(folder, "search", stale) as held:
            if held is not None:
                try:
                    yield
                finally:
                    held.remove()
                return
        time.sleep(POLL / 10)


def _take(
    folder: Path, request: TuneRequest, budget: Budget, stack: ExitStack, stale: float
) -> tuple[tuple[Trial, Lease] | None, bool]:
    """Take up an open trial or begin a new one, with its lease; else say whether others are at some."""
    trials = read_trials(folder)
    waiting = False
    for trial in trials:
        if not trial.has_ended:
            held = stack.enter_context(lease(folder, trial.name, stale))
            if held is not None:
                log.info(f"{trial.name} was left unfinished; it is tried again")
                return (trial, held), False
            waiting = True
        elif space_for(folder, trial).is_dir():  # killed before it had tidied up
            shutil.rmtree(space_for(folder, trial), ignore_errors=True)
    if budget.is_spent(trials):
        return None, waiting
    trial = Trial(len(trials), suggest(journal_of(folder), trials, request))
    held = stack.enter_context(lease(folder, trial.name, stale))
    if held is None:
        raise MachineError(f"{folder}: the lease of the new {trial.name} is held by another process")
    write_trial(folder, trial)
    return (trial, held), False


def _do(
    folder: Path, request: TuneRequest, trial: Trial, held: Lease, objective: Objective, stale: float
) -> Trial | None:
    """Do a trial and keep what came of it; None where another process has taken it over."""
    try:
        measure = objective(
            begin(space_for(folder, trial), request.config_of(trial.params), held.number),
            lambda step, value: _goes_on(folder, request, trial.number, step, value, held, stale),
        )
        ended = _ended(read_trial(folder, trial.number), measure, held.spent)
    except LostLeaseError:
        log.warning(f"{trial.name} was taken over by another process")
        return None
    except MachineError:
        raise
    except (UserError, ValueError, RuntimeError, ArithmeticError) as error:
        lost = is_device_lost(error)
        if trial.number == 0 or is_out_of_memory(error) or (lost and held.number < ATTEMPTS):
            raise
        log.warning(f"{trial.name} failed: {error}")
        ended = replace(read_trial(folder, trial.number), state="failed", error=one_line(error), seconds=held.spent)
        if lost:  # again and again, at these values; this process can do no other trial
            write_trial(folder, ended)
            raise
    with exclusive(folder, stale):
        if held.is_lost:
            return None
        write_trial(folder, ended)
    held.remove()
    shutil.rmtree(space_for(folder, trial), ignore_errors=True)
    return ended


def _ended(trial: Trial, measure: Measure, seconds: float) -> Trial:
    found = replace(trial, state="complete", steps=measure.steps, seconds=seconds)
    if measure.pruned:
        return replace(found, state="pruned", value=trial.looks[max(trial.looks)])
    return replace(found, value=measure.value, accuracy=measure.accuracy, drift=measure.drift)


def _goes_on(
    folder: Path, request: TuneRequest, number: int, step: int, measure: Callable[[], float], held: Lease, stale: float
) -> bool:
    """Keep a trial's value at a step, and say whether it goes on. What was kept before a kill is not measured again."""
    known = read_trial(folder, number).looks
    value = known[step] if step in known else measure()
    with exclusive(folder, stale):
        held.check()
        trials = read_trials(folder)
        trials[number] = replace(trials[number], looks={**{s: v for s, v in known.items() if s < step}, step: value})
        write_trial(folder, trials[number])
        # Never the first: it has the values to start from, and all others are compared with it.
        return number == 0 or not is_hopeless(journal_of(folder), trials, request, number)
