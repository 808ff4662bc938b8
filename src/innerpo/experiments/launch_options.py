"""Who does the work of a sweep, and what a worker asks a cluster for."""

from dataclasses import dataclass, field
from typing import Literal

from innerpo.errors import UserError

LauncherName = Literal["local", "slurm", "ray"]
"""Names of the launchers."""


@dataclass(frozen=True)
class SlurmOptions:
    """What a worker's job asks Slurm for. What is left out, Slurm decides."""

    partition: str | None = None
    """Partition."""
    time: int = 240
    """Minutes of a job; one whose time is up is queued again and goes on."""
    gpus: int = 1
    """GPUs of a worker; a run uses one. 0 = none."""
    cpus: int = 4
    """CPUs of a worker."""
    mem: float | None = None
    """Memory of a worker in GB."""
    account: str | None = None
    """Account."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features of the nodes (a100)."""
    extra: tuple[str, ...] = ()
    """Further options of sbatch (exclude=node7 nice=100)."""
    setup: tuple[str, ...] = ()
    """Shell commands before the work (module load cuda), each one word to the shell that starts the sweep."""


@dataclass(frozen=True)
class RayOptions:
    """What a worker's task asks Ray for."""

    address: str | None = None
    """Address of a running cluster (auto, or host:port); else one is started on this machine for the sweep."""
    cpus: float = 1.0
    """CPUs of a worker."""
    gpus: float | None = None
    """GPUs of a worker, of which a run uses one; .5 lets two share one. Else 1 where the cluster has GPUs."""

    def __post_init__(self) -> None:
        """Check what a worker asks for: some of either kind, so that a cluster holds a number of them."""
        if not self.cpus > 0:
            raise UserError(f"ray.cpus must be above 0, got {self.cpus}")
        if self.gpus is not None and not self.gpus >= 0:
            raise UserError(f"ray.gpus must not be negative, got {self.gpus}")


@dataclass(frozen=True)
class Launch:
    """Who does the work. ``workers`` = 0: here one for each GPU, or one; one job of Slurm; as many as Ray holds."""

    launcher: LauncherName = "local"
    workers: int = 0
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    ray: RayOptions = field(default_factory=RayOptions)

    def __post_init__(self) -> None:
        """Check the number of workers."""
        if self.workers < 0:
            raise UserError(f"workers must not be negative, got {self.workers}")
