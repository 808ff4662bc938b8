"""What the open runs of a sweep will need: memory and time, by the dry run of each (plan.py), without any weights."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from innerpo.errors import UserError
from innerpo.experiments.attempt import is_trained
from innerpo.experiments.plan import PlannedRun
from innerpo.experiments.status import ARCHIVED, RunStatus, SweepStatus, share_left
from innerpo.plan import available_bytes, plan_run
from innerpo.progress import task


@dataclass(frozen=True)
class Forecast:
    """What a run will need on the device at hand: bytes at its peak there and in its process, seconds of work.

    ``fault``: why it cannot begin; then the figures are NaN.
    """

    device: str = ""
    on_device: float = math.nan
    in_process: float = math.nan
    seconds: float = math.nan
    fault: str = ""

    @property
    def peak(self) -> float:
        """Bytes where they are scarce: on the device, or in the process where the device is a CPU."""
        return self.in_process if self.device == "cpu" else self.on_device


def forecasts(status: SweepStatus, retry_failed: bool = False) -> dict[str, Forecast]:
    """Return what the open runs will need, by the id of the run; failed ones too where they are to be tried again.

    Seeds of one run are planned once. A run like which one was done here (row, data set and model) takes the time that
    this took. A trained run needs scoring alone. Nothing is written.
    """
    kinds: dict[tuple[str, bool], list[PlannedRun]] = {}
    for run in status.runs:
        if run.state in ("waiting", "running", *(["failed"] if retry_failed else [])):
            trained = is_trained(status.folder / run.planned.name)
            kinds.setdefault((_without_seed(run.planned).id, trained), []).append(run.planned)
    found = {}
    with task("plan runs", len(kinds)) as update:
        for done, ((_, trained), alike) in enumerate(kinds.items(), 1):
            forecast = _forecast(alike[0], trained)
            for planned in alike:
                past = [] if trained else [r.seconds for r in status.runs if _is_like(r, planned)]
                found[planned.id] = replace(forecast, seconds=sum(past) / len(past)) if past else forecast
            update(done, alike[0].name)
    return found


def total_seconds(status: SweepStatus, found: Mapping[str, Forecast]) -> float:
    """Seconds of work of all runs that can begin, of running ones the half; NaN where there is none."""
    shares = {run.planned.id: share_left(run) for run in status.runs}
    seconds = [shares[id] * forecast.seconds for id, forecast in found.items() if not forecast.fault]
    return sum(seconds) if seconds else math.nan


def most_memory(found: Mapping[str, Forecast]) -> tuple[Forecast, int] | None:
    """Return the forecast with the highest peak, and the bytes that are free now (0: unknown); None without one."""
    import torch

    known = [forecast for forecast in found.values() if not forecast.fault]
    if not known:
        return None
    most = max(known, key=lambda forecast: forecast.peak)
    return most, available_bytes(torch.device(most.device))


def _without_seed(planned: PlannedRun) -> PlannedRun:
    config = planned.config
    return replace(planned, config=replace(config, training=replace(config.training, seed=0)))


def _is_like(run: RunStatus, planned: PlannedRun) -> bool:
    """Whether a run was done on this machine that takes as long as another."""
    a, b = run.planned, planned
    same = (a.row, a.config.data.dataset, a.config.model) == (b.row, b.config.data.dataset, b.config.model)
    return same and run.state == "done" and run.note != ARCHIVED and not math.isnan(run.seconds)


def _forecast(planned: PlannedRun, trained: bool) -> Forecast:
    with tempfile.TemporaryDirectory() as place:  # else the check of the run's folder would write there
        try:
            plan = plan_run(replace(planned.config, output_dir=Path(place)))
        except UserError as error:
            return Forecast(fault=str(error))
    memory, seconds = plan.memory, plan.seconds
    if trained:
        bytes_ = float(memory.weights + memory.adapter + memory.scoring)
        return Forecast(memory.device, bytes_, bytes_ + memory.libraries, seconds["scoring"])
    return Forecast(memory.device, float(memory.on_device), float(memory.in_process), sum(seconds.values()))
