"""How a sweep stands, by what its files say: no other record is kept."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from innerpo.errors import UserError
from innerpo.experiments.attempt import failure_of, swept
from innerpo.experiments.layout import attempts
from innerpo.experiments.lease import current_holder
from innerpo.experiments.plan import Plan, PlannedRun
from innerpo.experiments.scored import is_done
from innerpo.training.paths import STATE
from innerpo.training.state import RunState, read_state

State = Literal["done", "running", "failed", "waiting"]
ARCHIVED = "archived"
"""Note of a run that is done in the archive of a study."""


@dataclass(frozen=True)
class RunStatus:
    """How one run stands. ``seconds`` is what it took, NaN where it is not done; ``note`` an error, or what it does."""

    planned: PlannedRun
    state: State
    seconds: float = math.nan
    note: str = ""
    host: str = ""


@dataclass(frozen=True)
class SweepStatus:
    """How the runs of a plan stand, in its order. ``seconds_left``: work that is left, by what past runs took."""

    folder: Path
    runs: tuple[RunStatus, ...]

    def count(self, state: State) -> int:
        """Number of runs in a state."""
        return sum(run.state == state for run in self.runs)

    @property
    def ended(self) -> int:
        """Number of runs that are done or have failed."""
        return self.count("done") + self.count("failed")

    @property
    def failed(self) -> tuple[RunStatus, ...]:
        """The runs that failed."""
        return tuple(run for run in self.runs if run.state == "failed")

    @property
    def seconds_left(self) -> float:
        """Seconds of work that are left, of one process; NaN where no past run says."""
        open_runs = [run for run in self.runs if run.state in ("running", "waiting")]
        expected = [expected_seconds(run.planned, self.runs) for run in open_runs]
        shares = [share_left(run) for run in open_runs]
        return sum((e * s for e, s in zip(expected, shares, strict=True)), 0.0)


@dataclass
class Watch:
    """Looks at a sweep again and again. What was done once is not looked at again."""

    plan: Plan
    folder: Path
    _done: dict[str, RunStatus] = field(default_factory=dict)

    def look(self) -> SweepStatus:
        """Return how the sweep stands now."""
        return SweepStatus(self.folder, tuple(self._status(planned) for planned in self.plan.runs))

    def _status(self, planned: PlannedRun) -> RunStatus:
        if planned.id not in self._done:
            found = status_of_run(planned, self.folder)
            if found.state != "done":
                return found
            self._done[planned.id] = found
        return self._done[planned.id]


def status_of_run(planned: PlannedRun, folder: Path) -> RunStatus:
    """Return how one run stands."""
    place, fault = folder / planned.name, ""
    try:
        if is_done(place, planned.config):
            return RunStatus(planned, "done", seconds_of(place))
    except UserError as error:  # files of another version, say: who does the run will fail on them
        fault = str(error)
    holder = current_holder(folder, planned.name)
    if holder is not None:
        return RunStatus(planned, "running", note=_doing(folder, planned.name), host=f"{holder.host} {holder.pid}")
    failure = failure_of(folder, planned)
    if failure is not None:
        return RunStatus(planned, "failed", note=failure.error, host=failure.host)
    return RunStatus(planned, "waiting", note=fault)


def expected_seconds(planned: PlannedRun, known: Iterable[RunStatus]) -> float:
    """Return how long a run takes by those that are done: those most like it count; NaN where none is known.

    Runs of the archive count where none was done here: they may be another machine's.
    """
    past = [run for run in known if run.state == "done" and not math.isnan(run.seconds)]
    past = [run for run in past if run.note != ARCHIVED] or past
    config = planned.config

    def same(run: RunStatus) -> Mapping[str, bool]:
        other = run.planned.config
        return {
            "row": run.planned.row == planned.row,
            "dataset": other.data.dataset == config.data.dataset,
            "model": other.model.base_model == config.model.base_model,
        }

    for keys in (("row", "dataset", "model"), ("dataset", "model"), ("row", "model"), ("model",), ()):
        alike = [run.seconds for run in past if all(same(run)[key] for key in keys)]
        if alike:
            return sum(alike) / len(alike)
    return math.nan


def seconds_of(place: Path) -> float:
    """Return how long the run in a folder took a sweep; NaN where it does not say."""
    found = swept(place).get("seconds")
    return float(found) if isinstance(found, int | float) else math.nan


def _state(folder: Path, name: str) -> RunState | None:
    """What the attempt at a run says of its progress."""
    for path in attempts(folder).glob("*/"):
        try:
            return read_state((path / name / STATE).read_text())
        except (OSError, ValueError):
            continue
    return None


def _doing(folder: Path, name: str) -> str:
    state = _state(folder, name)
    if state is None:
        return "preparing"
    return f"{state.task or state.phase} {state.done}/{state.total}" if state.total > 0 else state.task or state.phase


def share_left(run: RunStatus) -> float:
    """Return the share of an open run that is left: a running one is taken to be half done."""
    return 0.5 if run.state == "running" else 1.0
