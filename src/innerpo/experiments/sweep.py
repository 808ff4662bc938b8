"""A sweep: the runs of a study in one folder, done by this process or by workers of its own, as often as it takes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from innerpo.experiments.attempt import drop_unasked_failures, forget_failure, is_trained, mark
from innerpo.experiments.launch_options import Launch, LauncherName, RayOptions, SlurmOptions
from innerpo.experiments.launchers import check_launcher, launch
from innerpo.experiments.plan import Plan, PlannedRun, in_folder, ordered, write_plan
from innerpo.experiments.status import SweepStatus, Watch
from innerpo.experiments.study import LISTS, StudyFile, read_study_file, study_of
from innerpo.experiments.study_fields import SCORING, VARIED
from innerpo.files import machine_errors
from innerpo.progress import task


def sweep(
    study: str | Path | Mapping[str, Any] | None = None,
    *,
    base: Any = None,
    output_dir: str | Path | None = None,
    workers: int = 0,
    launcher: LauncherName = "local",
    slurm: SlurmOptions | None = None,
    ray: RayOptions | None = None,
    retry_failed: bool = False,
    **options: Any,
) -> SweepStatus:
    """Do every run of a study that is not done yet; return how all of them stand.

    ``study`` is a YAML file or a mapping of its form; ``methods``, ``datasets``, ``seeds`` and its other keys may be
    given as keywords, and so may fields by their dotted names, a list of values for each with each. Runs land in
    ``output_dir``; those that are there already are kept. ``workers`` share the work; 0 = this process does it, which
    a ``base`` model in memory needs. ``launcher``: they are processes on this machine, jobs of Slurm, or tasks of Ray;
    ``slurm`` and ``ray`` say what each needs. ``retry_failed``: runs that failed earlier are tried again. A run that
    fails is named in the result (``failed``), and the others are done. Raises UserError for a study that is faulty.
    """
    found = find_study(study, options, output_dir)
    plan, folder = found.plan, found.output_dir
    if base is not None:
        plan = _on_base(plan, base)
    plan = prepare(plan, folder, retry_failed)
    if workers or launcher != "local":
        how = Launch(launcher, workers, slurm or SlurmOptions(), ray or RayOptions())
        check_launcher(how)
        return launch(plan, folder, how)
    return work_here(plan, folder, base)


def find_study(
    study: str | Path | Mapping[str, Any] | None, options: Mapping[str, Any], output_dir: str | Path | None = None
) -> StudyFile:
    """Return a study with what was given beside it. Raises UserError for what is no study."""
    keys = (*LISTS, *SCORING, *VARIED, "options", "groups")
    changes: dict[str, Any] = {key: value for key, value in options.items() if key in keys}
    for name, value in options.items():
        if name not in keys:
            kind = "product" if isinstance(value, list) else "options"
            changes[kind] = {**changes.get(kind, {}), name: list(value) if isinstance(value, tuple) else value}
    if output_dir is not None:
        changes["output_dir"] = str(output_dir)
    if isinstance(study, str | Path):
        return read_study_file(Path(study), changes)
    return study_of(study or {}, "study", changes)


def prepare(plan: Plan, folder: Path, retry_failed: bool = False) -> Plan:
    """Make a sweep's folder ready, and return its plan in it: runs that are there get the rows that the plan names."""
    plan = in_folder(plan, folder)
    with machine_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for planned in plan.runs:
        place = folder / planned.name
        if planned.row and is_trained(place):
            mark(place, planned)
        if retry_failed:
            forget_failure(folder, planned)
    drop_unasked_failures(folder, plan.runs)
    write_plan(plan, folder)
    return plan


def work_here(plan: Plan, folder: Path, base: Any = None) -> SweepStatus:
    """Do the runs of a plan in this process; return how they stand."""
    from innerpo.experiments.worker import Outcome, work

    done = 0
    with task("runs", len(plan.runs)) as update:

        def each(planned: PlannedRun, outcome: Outcome) -> None:
            nonlocal done
            done += 1
            update(done, f"{planned.name} {outcome.kind}")

        work(plan, folder, base, each=each)
    return Watch(plan, folder).look()


def _on_base(plan: Plan, base: Any) -> Plan:
    """The plan with configs that name a base model in memory."""
    from innerpo.model.loading import as_loaded

    def changed(planned: PlannedRun) -> PlannedRun:
        return replace(planned, config=replace(planned.config, model=as_loaded(planned.config.model, base)))

    return ordered(changed(planned) for planned in plan.runs)
