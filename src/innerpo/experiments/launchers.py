"""Where the workers of a sweep run: processes on this machine, jobs of Slurm, or tasks of Ray."""

from collections.abc import Callable
from pathlib import Path

from innerpo.experiments.fleet import Fleet
from innerpo.experiments.launch_options import Launch
from innerpo.experiments.plan import Plan, write_plan
from innerpo.experiments.pool import Pool, default_workers
from innerpo.experiments.ray_launcher import connected, import_ray
from innerpo.experiments.slurm_launcher import SlurmLauncher, import_submitit
from innerpo.experiments.status import SweepStatus


def n_workers(how: Launch, n_runs: int) -> int:
    """Return the number of workers for some runs; 0 where Ray is to say how many it holds."""
    unsaid = {"local": default_workers() if how.launcher == "local" else 0, "slurm": 1, "ray": 0}
    return min(how.workers or unsaid[how.launcher], n_runs)


def check_launcher(how: Launch) -> None:
    """Raise UserError where the library of a launcher is missing."""
    if how.launcher == "slurm":
        import_submitit()
    elif how.launcher == "ray":
        import_ray()


def launch(plan: Plan, folder: Path, how: Launch, show: Callable[[SweepStatus], object] | None = None) -> SweepStatus:
    """Work on a plan until every run is done or has failed; return how they stand.

    KeyboardInterrupt ends the workers, each of which leaves its run so that it can be taken up, and passes.
    """
    n = n_workers(how, len(plan.runs))
    if how.launcher == "local":
        return Pool(plan, folder, n).run(show)
    plan_id = write_plan(plan, folder)
    if how.launcher == "slurm":
        return Fleet(plan, folder, n, SlurmLauncher(how.slurm, folder, plan_id).submit).run(show)
    with connected(how.ray, folder, plan_id) as launcher:
        return Fleet(plan, folder, n or min(launcher.room, len(plan.runs)), launcher.submit).run(show)
