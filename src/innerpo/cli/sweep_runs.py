"""What the verb sweep does: show how the runs stand while they are done, then the table; or only list them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.live import Live

from innerpo.cli.console import say, stderr, stdout
from innerpo.cli.over_runs import show_table
from innerpo.cli.render_sweep import forecast_lines, live_table, progress_line, runs_table
from innerpo.errors import FailedRunsError, UserError
from innerpo.experiments.launch_options import Launch
from innerpo.experiments.launchers import check_launcher, launch, n_workers
from innerpo.experiments.status import RunStatus, SweepStatus
from innerpo.experiments.study import StudyFile
from innerpo.experiments.sweep import Started, start, status_of

if TYPE_CHECKING:  # it loads torch
    from innerpo.experiments.forecast import Forecast

LINES = 20.0
"""Seconds between lines on progress where there is no terminal to draw on and nothing has ended."""


def list_runs(study: StudyFile, how: Launch, retry_failed: bool = False) -> None:
    """Print the runs of a study, how they stand, and the time and memory that those need which wait.

    Nothing is written. Raises UserError, after all are shown, where a run could not begin.
    """
    from innerpo.experiments.forecast import forecasts

    status = status_of(study)
    found = forecasts(status, retry_failed)
    stdout.print(runs_table(status, found))
    for line in forecast_lines(status, found, how):
        stdout.print(line, markup=False, soft_wrap=True)
    faults = [f"{run.planned.name}: {found[run.planned.id].fault}" for run in status.runs if _fault(run, found)]
    if faults:
        raise UserError(f"{len(faults)} of {len(status.runs)} runs cannot begin; the first: {faults[0]}")


def _fault(run: RunStatus, found: Mapping[str, "Forecast"]) -> bool:
    return run.planned.id in found and bool(found[run.planned.id].fault)


def run_sweep(study: StudyFile, how: Launch, retry_failed: bool, format: str) -> None:
    """Do the runs of a study and print their table. Raises FailedRunsError where some failed, after the table."""
    check_launcher(how)
    started = start(study, retry_failed)
    n = n_workers(how, len(started.open.runs))
    workers = _workers(how, n) if started.open.runs else "nothing to do"
    say(f"{len(started.plan.runs)} runs in {started.folder}, {_archived(started)}{workers}")
    status = started.look()
    if status.ended < len(status.runs):
        try:
            with _shown(n) as show:
                status = launch(started.open, started.folder, how, lambda s: show(started.joined(s)))
        except KeyboardInterrupt:
            line = progress_line(started.look(), n)
            raise KeyboardInterrupt(f"interrupted ({line}); the same command goes on where it stopped") from None
    status = started.end(status)
    finish(status, format, [str(folder) for folder in started.scored()])


def _archived(started: Started) -> str:
    number, folders = len(started.archived), " and ".join(map(str, started.archive.folders))
    return f"{number} of them archived in {folders}, " if number else ""


def _workers(how: Launch, n: int) -> str:
    where = {"local": "", "slurm": " of Slurm", "ray": " of Ray"}[how.launcher]
    return f"{n or 'all'} worker{'s' if n != 1 else ''}{where}"


def finish(status: SweepStatus, format: str, folders: Sequence[str]) -> None:
    """Print the table of a sweep that has ended, of some folders. Raises FailedRunsError where runs failed."""
    failed, done = status.failed, status.count("done")
    if done and folders:
        try:
            show_table(folders, "accuracy", "mean_logp", format, strengths=False)
        except UserError:
            if not failed:  # else it names the failed runs, as the line below does
                raise
    if failed:
        named = "; ".join(f"{run.planned.name}: {run.note}" for run in failed)
        raise FailedRunsError(
            f"{len(failed)} of {len(status.runs)} runs failed: {named} (the option retry_failed tries them again)"
        )
    if done < len(status.runs):
        left = "; ".join(f"{r.planned.name}: {r.note or r.state}" for r in status.runs if r.state != "done")
        raise FailedRunsError(f"{len(status.runs) - done} of {len(status.runs)} runs are not done: {left}")
    say(f"{done} runs done; their folder is {status.folder}")


@contextmanager
def _shown(n_workers: int) -> Iterator[Callable[[SweepStatus], None]]:
    """Draw a live table on a terminal; elsewhere print a line where a run has ended, and now and then."""
    if not stderr.is_terminal:
        yield _Lines(n_workers)
        return
    with Live(console=stderr, transient=True, auto_refresh=False) as live:
        yield lambda status: live.update(live_table(status, n_workers, stderr.height), refresh=True)


class _Lines:
    """Progress as lines of text."""

    def __init__(self, n_workers: int) -> None:
        self.n_workers, self.ended, self.said = n_workers, -1, time.monotonic()

    def __call__(self, status: SweepStatus) -> None:
        ended = status.ended
        if ended != self.ended or time.monotonic() - self.said > LINES:
            self.ended, self.said = ended, time.monotonic()
            say(progress_line(status, self.n_workers))
