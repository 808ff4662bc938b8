"""What the open runs of a sweep will need: memory and time, by the dry run of each (plan.py), without any weights."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from innerpo.errors import UserError
from innerpo.experiments.plan import PlannedRun
from innerpo.experiments.status import RunStatus, expected_seconds
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


def forecasts(runs: Sequence[RunStatus]) -> dict[str, Forecast]:
    """Return what the waiting runs will need, by the id of the run. Seeds of one run are planned once.

    A run like which one was done takes the time that this took, of which the reference's is paid once.
    """
    waiting = [run for run in runs if run.state == "waiting"]
    kinds: dict[str, list[PlannedRun]] = {}
    for run in waiting:
        kinds.setdefault(_without_seed(run.planned).id, []).append(run.planned)
    found = {}
    with task("plan runs", len(kinds)) as update:
        for done, alike in enumerate(kinds.values(), 1):
            forecast = _forecast(alike[0])
            for planned in alike:
                known = expected_seconds(planned, runs)
                found[planned.id] = forecast if math.isnan(known) else replace(forecast, seconds=known)
            update(done, alike[0].name)
    return found


def total_seconds(found: Iterable[Forecast]) -> float:
    """Seconds of work of all runs that can begin; NaN where there is none."""
    seconds = [forecast.seconds for forecast in found if not forecast.fault]
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


def _forecast(planned: PlannedRun) -> Forecast:
    try:
        plan = plan_run(planned.config)
    except UserError as error:
        return Forecast(fault=str(error))
    memory = plan.memory
    sizes = float(memory.on_device), float(memory.in_process)
    return Forecast(memory.device, *sizes, sum(plan.seconds.values()))
