"""A sweep: the runs of a study in one folder, done by this process or by workers of its own, as often as it takes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from innerpo.errors import MachineError, UserError
from innerpo.evaluation.headline_files import scores_folder
from innerpo.experiments.archive import Archive
from innerpo.experiments.attempt import drop_unasked_failures, forget_failure, is_trained, mark
from innerpo.experiments.launch_options import Launch, LauncherName, RayOptions, SlurmOptions
from innerpo.experiments.launchers import check_launcher, launch
from innerpo.experiments.plan import Plan, PlannedRun, in_folder, ordered, write_plan
from innerpo.experiments.scored import is_scored
from innerpo.experiments.status import RunStatus, SweepStatus, Watch
from innerpo.experiments.study import LISTS, StudyFile, read_study_file, study_of
from innerpo.experiments.study_fields import SCORING, VARIED
from innerpo.files import machine_errors
from innerpo.progress import task


def sweep(
    study: str | Path | Mapping[str, Any] | None = None,
    *,
    base: Any = None,
    output_dir: str | Path | None = None,
    archive: str | Path | None = None,
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
    ``output_dir``; those that are there already are kept, and so are those in the ``archive``, which gets what tables
    and reports need of each run (archive.py). ``workers`` share the work; 0 = this process does it, which a ``base``
    model in memory needs. ``launcher``: they are processes on this machine, jobs of Slurm, or tasks of Ray; ``slurm``
    and ``ray`` say what each needs. ``retry_failed``: runs that failed earlier are tried again. A run that fails is
    named in the result (``failed``), and the others are done. Raises UserError for a study that is faulty, and for a
    ``base`` that workers could not have.
    """
    if base is not None and (workers or launcher != "local"):
        raise UserError("a base in memory is this process's own: it needs workers=0 and the launcher local")
    found = find_study(study, options, output_dir, archive)
    if base is not None:
        plan = _on_base(found.plan, base)
        if isinstance(study, str | Path) and archive is None:  # the file's own archive is not for runs on another base
            own = {run.id for run in found.plan.runs}
            found = replace(found, foreign=found.foreign | {run.id for run in plan.runs if run.id not in own})
        found = replace(found, plan=plan)
    started = start(found, retry_failed)
    how = Launch(launcher, workers, slurm or SlurmOptions(), ray or RayOptions())
    if started.is_over:
        return started.look()
    if workers or launcher != "local":
        check_launcher(how)
        return started.end(launch(started.open, started.folder, how, started.joined))
    return started.end(work_here(started.open, started.folder, base, started.joined))


@dataclass(frozen=True)
class Started:
    """A sweep that is ready for workers: the plan of a study, and the part of it that is not archived."""

    plan: Plan
    open: Plan
    folder: Path
    archive: Archive
    archived: tuple[RunStatus, ...]

    @property
    def is_over(self) -> bool:
        """Whether the archive holds all runs."""
        return not self.open.runs

    def look(self) -> SweepStatus:
        """Return how all runs stand now, and archive those that were done since."""
        return self.joined(Watch(self.open, self.folder).look())

    def joined(self, status: SweepStatus) -> SweepStatus:
        """Return how all runs stand, given those of the open part; archive those that were done since."""
        self.archive.keep(status.runs, self.folder)
        return _in_order(self.plan, self.folder, (*self.archived, *status.runs))

    def end(self, status: SweepStatus) -> SweepStatus:
        """Return how all runs stand at the end. Raises MachineError where a run that was done is not archived."""
        found = self.joined(status)
        if self.archive.fault:
            raise MachineError(f"runs are done that could not be archived: {self.archive.fault}")
        return found

    def scored(self) -> list[Path]:
        """Return the folders of the plan's runs that are there and were to be scored: the sweep's, else the archive's.

        The sweep's folder may hold others, which are none of its table's.
        """
        found = []
        for planned in (run for run in self.plan.runs if not run.config.eval.skip):
            own = self.folder / planned.name
            whole = is_trained(own) and is_scored(scores_folder(own, planned.config), planned.config)
            place = own if whole else self.archive.find(planned) or (own if is_trained(own) else None)
            found += [] if place is None or place in found else [place]
        return found


def start(study: StudyFile, retry_failed: bool = False) -> Started:
    """Make the folder of a study ready for those of its runs that are not archived."""
    folder, archive = study.output_dir, Archive(study.archive, study.foreign, study.other_archives)
    if study.archive is not None:
        if study.archive.resolve() == folder.resolve():
            raise UserError(f"{folder} cannot be the folder of a study and its archive, which keeps no weights")
        with machine_errors(study.archive):
            study.archive.mkdir(parents=True, exist_ok=True)
    archived, left = archive.split(study.plan)
    archive.settle(archived, folder, study.own_rows)
    plan = prepare(Plan(left), folder, retry_failed) if left else Plan(())
    return Started(study.plan, plan, folder, archive, archived)


def status_of(study: StudyFile) -> SweepStatus:
    """Return how the runs of a study stand. Nothing is written."""
    archived, left = Archive(study.archive, others=study.other_archives).split(study.plan)
    status = Watch(in_folder(Plan(left), study.output_dir), study.output_dir).look()
    return _in_order(study.plan, study.output_dir, (*archived, *status.runs))


def find_study(
    study: str | Path | Mapping[str, Any] | None,
    options: Mapping[str, Any],
    output_dir: str | Path | None = None,
    archive: str | Path | None = None,
) -> StudyFile:
    """Return a study with what was given beside it. Raises UserError for what is no study."""
    keys = (*LISTS, *SCORING, *VARIED, "options", "groups", "other_archives", "about")
    changes: dict[str, Any] = {key: value for key, value in options.items() if key in keys}
    for name, value in options.items():
        if name not in keys:
            kind = "product" if isinstance(value, list) else "options"
            changes[kind] = {**changes.get(kind, {}), name: list(value) if isinstance(value, tuple) else value}
    changes |= {k: str(v) for k, v in (("output_dir", output_dir), ("archive", archive)) if v is not None}
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


def work_here(
    plan: Plan, folder: Path, base: Any = None, show: Callable[[SweepStatus], object] | None = None
) -> SweepStatus:
    """Do the runs of a plan in this process; return how they stand. ``show`` hears of it when a run has ended."""
    from innerpo.experiments.worker import Outcome, work

    done, watch = 0, Watch(plan, folder)
    with task("runs", len(plan.runs)) as update:

        def each(planned: PlannedRun, outcome: Outcome) -> None:
            nonlocal done
            done += 1
            update(done, f"{planned.name} {outcome.kind}")
            if show is not None:
                show(watch.look())

        work(plan, folder, base, each=each)
    return watch.look()


def _in_order(plan: Plan, folder: Path, runs: Iterable[RunStatus]) -> SweepStatus:
    by_id = {run.planned.id: run for run in runs}
    return SweepStatus(folder, tuple(by_id[planned.id] for planned in plan.runs))


def _on_base(plan: Plan, base: Any) -> Plan:
    """The plan with configs that name a base model in memory."""
    from innerpo.model.loading import as_loaded

    def changed(planned: PlannedRun) -> PlannedRun:
        return replace(planned, config=replace(planned.config, model=as_loaded(planned.config.model, base)))

    return ordered(changed(planned) for planned in plan.runs)
