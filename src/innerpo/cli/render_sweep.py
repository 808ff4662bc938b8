"""How a sweep stands, for a terminal: a table while it works, a line, and the list of its runs."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from innerpo.experiments.status import RunStatus, State, SweepStatus, expected_seconds
from innerpo.view.status import minutes

STYLES: dict[State, str] = {"done": "green", "running": "cyan", "failed": "red", "waiting": "dim"}


def progress_line(status: SweepStatus, n_workers: int) -> str:
    """``12 of 75 runs done, 2 running, 1 failed, about 3.5 h left``."""
    parts = [f"{status.count('done')} of {len(status.runs)} runs done"]
    parts += [f"{status.count(s)} {s}" for s in ("running", "failed") if status.count(s)]
    left = status.seconds_left / max(1, n_workers)
    if math.isnan(left):
        parts.append("time left unknown until one is done")
    elif left > 0:
        parts.append(f"about {minutes(left)} left")
    return ", ".join(parts)


def live_table(status: SweepStatus, n_workers: int, height: int) -> RenderableType:
    """Return the runs in work, those that failed and the last that were done, as many as the terminal holds."""
    order: tuple[State, ...] = ("running", "failed")
    shown = [run for state in order for run in status.runs if run.state == state]
    done = [run for run in status.runs if run.state == "done"]
    room = max(3, height - 6)
    shown = [*done[max(0, len(done) - max(0, room - len(shown))) :], *shown][-room:]
    return Group(_table(shown), Text(progress_line(status, n_workers)))


def runs_table(status: SweepStatus) -> Table:
    """Return all runs in their order, with the time that each took or is expected to take."""
    return _table(status.runs, [_expected(run, status) for run in status.runs])


def _table(runs: Sequence[RunStatus], times: Sequence[str] = ()) -> Table:
    table = Table()
    for name in ("run", "row", "state", "time"):
        table.add_column(name, overflow="fold" if name == "run" else "ellipsis")
    for i, run in enumerate(runs):
        state = run.state if not run.note else f"{run.state}: {run.note}"
        took = times[i] if times else _time(run.seconds)
        style = STYLES[run.state]
        table.add_row(escape(run.planned.name), escape(run.planned.row), f"[{style}]{escape(state)}[/]", took)
    return table


def _expected(run: RunStatus, status: SweepStatus) -> str:
    if run.state == "done":
        return _time(run.seconds)
    seconds = expected_seconds(run.planned, status.runs)
    return "" if math.isnan(seconds) else f"about {minutes(seconds)}"


def _time(seconds: float) -> str:
    return "" if math.isnan(seconds) else minutes(seconds)
