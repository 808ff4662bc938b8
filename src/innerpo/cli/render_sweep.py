"""How a sweep stands, for a terminal: a table while it works, a line, and the list of its runs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from innerpo.cli.console import gigabytes
from innerpo.experiments.launch_options import Launch
from innerpo.experiments.status import RunStatus, State, SweepStatus
from innerpo.view.status import minutes

if TYPE_CHECKING:  # it loads torch
    from innerpo.experiments.forecast import Forecast

STYLES: dict[State, str] = {"done": "green", "running": "cyan", "failed": "red", "waiting": "dim"}


def progress_line(status: SweepStatus, n_workers: int) -> str:
    """``12 of 75 runs done, 2 running, 1 failed, about 3.5 h left``."""
    parts = _counts(status)
    left = status.seconds_left / at_once(status, n_workers)
    if math.isnan(left):
        parts.append("time left unknown until one is done")
    elif left > 0:
        parts.append(f"about {minutes(left)} left")
    return ", ".join(parts)


def at_once(status: SweepStatus, n_workers: int) -> int:
    """Return how many workers have something to do: no more than there are open runs, and at least one.

    Where nobody knows how many there are (0), as many as there are runs in work.
    """
    return max(1, min(n_workers or status.count("running"), status.count("running") + status.count("waiting")))


def _counts(status: SweepStatus) -> list[str]:
    counted = [f"{status.count('done')} of {len(status.runs)} runs done"]
    return counted + [f"{status.count(s)} {s}" for s in ("running", "failed") if status.count(s)]


def live_table(status: SweepStatus, n_workers: int, height: int) -> RenderableType:
    """Return the runs in work, those that failed and the last that were done, as many as the terminal holds."""
    order: tuple[State, ...] = ("running", "failed")
    shown = [run for state in order for run in status.runs if run.state == state]
    done = [run for run in status.runs if run.state == "done"]
    room = max(3, height - 6)
    shown = [*done[max(0, len(done) - max(0, room - len(shown))) :], *shown][-room:]
    return Group(_table(shown), Text(progress_line(status, n_workers)))


def runs_table(status: SweepStatus, forecasts: Mapping[str, "Forecast"]) -> Table:
    """Return all runs in their order, with the time that each took, or what it will need as far as it was planned."""
    needs = [_needs(run, forecasts.get(run.planned.id)) for run in status.runs]
    return _table(status.runs, needs)


def forecast_lines(status: SweepStatus, found: Mapping[str, "Forecast"], how: Launch) -> Iterator[str]:
    """How many runs are done, the time that is left, and the memory of the largest run beside what is free."""
    from innerpo.experiments.forecast import most_memory, total_seconds
    from innerpo.experiments.launchers import n_workers

    n = at_once(status, n_workers(how, len(status.runs)))
    done = _counts(status)
    seconds = total_seconds(status, found)
    if not math.isnan(seconds):
        workers = f"{n} worker{'s' if n != 1 else ''}"
        done.append(f"about {minutes(seconds / n)} left with {workers} on a device like this one")
    yield ", ".join(done)
    most = most_memory(found)
    if most is not None:
        largest, free = most
        where = "of the process" if largest.device == "cpu" else f"on {largest.device}"
        beside = f"; {gigabytes(free)} are free now" if free else ""
        yield f"memory of the largest run: {gigabytes(int(largest.peak))} {where}{beside}"
        together = largest.peak * (n if largest.device == "cpu" and how.launcher == "local" else 1)
        if free and together > free:
            yield f"warning: {n} of the largest runs at once may need {gigabytes(int(together))}"


def _table(runs: Sequence[RunStatus], needs: Sequence[tuple[str, str]] = ()) -> Table:
    table = Table()
    for name in ("run", "row", "state", "time", *(["memory"] if needs else [])):
        table.add_column(name, overflow="fold" if name == "run" else "ellipsis")
    for i, run in enumerate(runs):
        state = run.state if not run.note else f"{run.state}: {run.note}"
        shown = needs[i] if needs else (_time(run.seconds),)
        style = STYLES[run.state]
        table.add_row(escape(run.planned.name), escape(run.planned.row), f"[{style}]{escape(state)}[/]", *shown)
    return table


def _needs(run: RunStatus, forecast: "Forecast | None") -> tuple[str, str]:
    """Time and memory of a run."""
    if forecast is None:
        return _time(run.seconds), ""
    if forecast.fault:
        return "", "cannot begin"
    return f"about {minutes(forecast.seconds)}", gigabytes(int(forecast.peak))


def _time(seconds: float) -> str:
    return "" if math.isnan(seconds) else minutes(seconds)
