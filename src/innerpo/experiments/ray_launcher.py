"""Workers as plain tasks of Ray, on a cluster that runs or on one started on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innerpo.errors import MachineError, UserError
from innerpo.experiments.fleet import Job
from innerpo.experiments.job import work_as_job
from innerpo.experiments.launch_options import RayOptions

RETRIES = 3
"""Ray starts a task again, wherever there is room, so often after its node or process died."""
STORE = 100 * 2**20
"""Bytes of Ray's object store on this machine: nothing is put into it."""


@dataclass(frozen=True)
class RayJob:
    """A task that was handed to Ray."""

    ray: Any
    ref: Any

    @property
    def name(self) -> str:
        """Ray's number of the task."""
        return str(self.ref.task_id().hex())

    def ended(self) -> str | None:
        """Return None while the task waits or works; else how it ended."""
        done, _ = self.ray.wait([self.ref], timeout=0)
        if not done:
            return None
        try:
            self.ray.get(self.ref)
        except Exception as error:
            return " ".join(str(error).strip().splitlines()[-1].split()) or type(error).__name__
        return ""

    def cancel(self) -> None:
        """Interrupt the task, which then ends its worker in order."""
        self.ray.cancel(self.ref, force=False)


@dataclass(frozen=True)
class RayLauncher:
    """Submits workers of a sweep to a cluster that this process is connected to."""

    ray: Any
    cpus: float
    gpus: float
    folder: Path
    plan_id: str

    def submit(self) -> Job:
        """Submit one worker."""
        task = self.ray.remote(max_retries=RETRIES, num_cpus=self.cpus, num_gpus=self.gpus)(work_as_job)
        return RayJob(self.ray, task.remote(str(self.folder.absolute()), self.plan_id))

    @property
    def room(self) -> int:
        """How many workers the cluster holds at once, at least one."""
        has = self.ray.cluster_resources()
        asked = {"CPU": self.cpus, "GPU": self.gpus}
        return max(1, min(int(has.get(kind, 0.0) / n) for kind, n in asked.items() if n > 0))


@contextmanager
def connected(options: RayOptions, folder: Path, plan_id: str) -> Iterator[RayLauncher]:
    """Be connected to a cluster while the body works.

    Raises UserError without Ray, and MachineError where the cluster cannot be reached or has too little for a worker.
    """
    ray = import_ray()
    here = {"include_dashboard": False, "object_store_memory": STORE} if options.address is None else {}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(options.address, log_to_driver=False, logging_level=logging.ERROR, **here)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise MachineError(f"the Ray cluster {options.address or ''} cannot be reached: {error}") from error
    try:
        yield RayLauncher(ray, options.cpus, _gpus(ray, options), folder, plan_id)
    finally:
        if started:
            ray.shutdown()


def import_ray() -> Any:
    """Return Ray. Raises UserError where it is missing."""
    try:
        import ray
    except ImportError as error:
        raise UserError("the Ray launcher needs ray: pip install 'innerpo[ray]'") from error
    return ray


def _gpus(ray: Any, options: RayOptions) -> float:
    """GPUs of a worker. Raises MachineError where no node has what a worker needs."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = {kind: max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU")}
    gpus = options.gpus if options.gpus is not None else float(most["GPU"] >= 1.0)
    for name, asked, kind in (("ray.cpus", options.cpus, "CPU"), ("ray.gpus", gpus, "GPU")):
        if asked > most[kind]:
            raise MachineError(f"{name} is {asked:g}, but no node of the Ray cluster has more than {most[kind]:g}")
    return gpus
