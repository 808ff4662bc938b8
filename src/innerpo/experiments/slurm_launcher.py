"""Workers as jobs of Slurm, through submitit. A job that runs out of time or is preempted is queued again."""

import os
import pwd
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

from innerpo.errors import MachineError, UserError
from innerpo.experiments.fleet import Job
from innerpo.experiments.job import work_as_job
from innerpo.experiments.launch_options import SlurmOptions
from innerpo.experiments.layout import logs

ASK = 5.0
"""Seconds between questions to Slurm's queue."""
TIMES = 10_000
"""A job may run out of time so often: a sweep may be longer than any job."""


class SlurmWorker:
    """What submitit keeps of a job: this class by its name, and two words. No model, no config."""

    def __call__(self, folder: str, plan_id: str) -> int:
        """Work on a plan, as a job."""
        signal.signal(signal.SIGTERM, _leave)  # submitit lets it pass; the run would be held until the kill
        if "SLURM_CPUS_PER_TASK" in os.environ:
            os.environ.setdefault("OMP_NUM_THREADS", os.environ["SLURM_CPUS_PER_TASK"])
        return work_as_job(folder, plan_id)

    def checkpoint(self, folder: str, plan_id: str) -> Any:
        """Return what is queued again where time is up: the same. What was done stands in the folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, folder, plan_id)


@dataclass
class Queue:
    """The user's jobs that wait or work, asked for now and then: of squeue, since sacct, which submitit asks, needs a
    database.
    """

    _ids: frozenset[str] = frozenset()
    _asked: float = field(default=float("-inf"))

    def has(self, id: str) -> bool:
        """Whether a job is in the queue, as of the last answer that Slurm gave."""
        if time.monotonic() - self._asked >= ASK:
            self._asked = time.monotonic()
            user = pwd.getpwuid(os.getuid()).pw_name
            command = ["squeue", "-h", "-o", "%A", "-u", user]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            if answer.returncode == 0:
                self._ids = frozenset(answer.stdout.split())
        return id in self._ids

    def add(self, id: str) -> None:
        """Take up a job that was just submitted."""
        self._ids |= {id}


@dataclass(frozen=True)
class SlurmJob:
    """A submitted job. ``queue`` is None for a job of submitit's local executor, which is a process of this one."""

    job: Any
    queue: Queue | None

    @property
    def name(self) -> str:
        """Slurm's number of the job."""
        return str(self.job.job_id)

    def ended(self) -> str | None:
        """Return None while the job waits or works; else how it ended."""
        if not self.job.paths.result_pickle.exists():
            at_work = self.queue.has(self.name) if self.queue else not self.job.done()
            if at_work:
                return None
            if not self.job.paths.result_pickle.exists():
                return "it left no result (cancelled, killed, or out of memory)"
        error = self.job.exception()
        return "" if error is None else str(error).strip().splitlines()[-1]

    def cancel(self) -> None:
        """End the job: its process gets SIGTERM first."""
        self.job.cancel(check=False)


@dataclass
class SlurmLauncher:
    """Submits workers of a sweep. ``cluster="local"``: as processes of submitit's local executor."""

    options: SlurmOptions
    folder: Path
    plan_id: str
    cluster: Literal["slurm", "local"] = "slurm"
    _queue: Queue = field(default_factory=Queue)

    def submit(self) -> Job:
        """Submit one worker. Raises UserError without submitit or Slurm, MachineError for what Slurm refuses."""
        submitit = import_submitit()
        try:
            job = self._executor(submitit).submit(SlurmWorker(), str(self.folder.absolute()), self.plan_id)
        except submitit.core.utils.FailedJobError as error:
            said = [line for line in str(error).splitlines() if "error" in line.lower()] or [str(error)]
            raise MachineError(f"Slurm refuses the job: {' '.join(' '.join(said).split())}") from error
        if self.cluster == "local":
            return SlurmJob(job, None)
        self._queue.add(str(job.job_id))
        return SlurmJob(job, self._queue)

    def _executor(self, submitit: Any) -> Any:
        own, place = self.options, logs(self.folder).absolute() / "slurm"
        place.mkdir(parents=True, exist_ok=True)
        try:
            executor = submitit.AutoExecutor(
                place, cluster=self.cluster, slurm_max_num_timeout=TIMES, local_max_num_timeout=TIMES
            )
        except RuntimeError as error:
            raise UserError(
                "there is no Slurm on this machine (no srun); start the sweep where sbatch works"
            ) from error
        executor.update_parameters(
            name="innerpo",
            timeout_min=own.time,
            cpus_per_task=own.cpus,
            gpus_per_node=own.gpus or None,
            mem_gb=own.mem,
            slurm_partition=own.partition,
            slurm_account=own.account,
            slurm_qos=own.qos,
            slurm_constraint=own.constraint,
            slurm_setup=list(own.setup) or None,
            slurm_additional_parameters=_extra(own.extra),
        )
        return executor


def import_submitit() -> Any:
    """Return submitit. Raises UserError where it is missing."""
    try:
        import submitit
    except ImportError as error:
        raise UserError("the Slurm launcher needs submitit: pip install 'innerpo[slurm]'") from error
    return submitit


def _extra(words: tuple[str, ...]) -> dict[str, Any]:
    """Further options of sbatch. A job may be queued again, whatever the cluster's default."""
    pairs = [word.removeprefix("--").partition("=") for word in words]
    return {"requeue": True} | {name: value if equals else True for name, equals, value in pairs}


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
