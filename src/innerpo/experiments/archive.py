"""The archive of a study: folders of its finished runs without weights, small enough to be committed with the study.

Each is what the run's folder is to tables and reports: config, record, log and scores. A sweep counts a run as done
whose archived config stands for the same run by today's code, whatever fields a config has got since; where its
machine is gone, the study goes on from its archive. Nothing in an archive is ever removed or replaced by another
training of the same run: that gets a folder of its own.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from innerpo.config.identity import run_id
from innerpo.config.yaml import read_run_config
from innerpo.errors import MachineError, UserError
from innerpo.evaluation.sweep_folder import runs_in
from innerpo.experiments.archived_files import copy_files, same_training
from innerpo.experiments.attempt import drop_failure, is_trained, mark, swept
from innerpo.experiments.plan import Plan, PlannedRun
from innerpo.experiments.scored import is_done
from innerpo.experiments.status import ARCHIVED, RunStatus, seconds_of
from innerpo.files import FOLDER_MODE, machine_errors

log = logging.getLogger(__name__)

STAGED = ".staged-"
"""Beginning of the names of folders that are being written."""
STALE = 86400.0
"""Seconds after which what was staged is what a killed process left."""


@dataclass
class Archive:
    """The archived runs in a folder, which need not exist yet; without a folder nothing is archived.

    A run is found by what it trains, not by its name, which holds an id of all fields that a config had then.
    ``foreign``: ids of runs that it does not get. ``others``: archives of other studies, which are only read.
    ``fault`` says why the last run could not be archived.
    """

    folder: Path | None = None
    foreign: frozenset[str] = frozenset()
    others: tuple[Path, ...] = ()
    fault: str = ""
    _told: set[str] = field(init=False, repr=False, default_factory=set)
    _runs: dict[str, list[Path]] = field(init=False, repr=False, default_factory=dict)
    _found: dict[str, Path] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for folder in self.folders:
            if folder.exists() and not folder.is_dir():
                name = "other_archives" if folder in self.others else "archive"
                raise UserError(f"{folder} is no folder; the option {name} names folders of archived runs")
            if folder in self.others and not folder.exists():
                log.warning(f"{folder} is not there: no run of it counts as done")
            for id, run in _known(folder) if folder.exists() else ():
                self._runs.setdefault(id, []).append(run)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where archived runs are looked for: its own folder, if it has one, and the others."""
        return (*(() if self.folder is None else (self.folder,)), *self.others)

    def find(self, planned: PlannedRun) -> Path | None:
        """Return the folder in which a run lies with all scores that are asked of it; None where there is none."""
        if planned.id not in self._found:
            for place in self._runs.get(run_id(planned.config), ()):
                if _holds(place, planned):
                    self._found[planned.id] = place
                    break
        return self._found.get(planned.id)

    def split(self, plan: Plan) -> tuple[tuple[RunStatus, ...], tuple[PlannedRun, ...]]:
        """Return how the runs of a plan stand that are archived, and those that are not."""
        found = {planned.id: self.find(planned) for planned in plan.runs}
        done = [RunStatus(p, "done", seconds_of(place), ARCHIVED) for p in plan.runs if (place := found[p.id])]
        return tuple(done), tuple(p for p in plan.runs if found[p.id] is None)

    def settle(self, done: Iterable[RunStatus], folder: Path, own_rows: bool = True) -> None:
        """Let a plan's rows of tables be those of its archived runs, in the sweep's folder too; forget that one failed.

        It may have failed here before another machine did it. In the archives of other studies rows stay, and where
        ``own_rows`` says that these are not the study's, in its own too; where they differ, the log says so.
        """
        others: dict[str, str] = {}
        for run in done:
            drop_failure(folder, run.planned)
            for place in (self.find(run.planned), folder / run.planned.name):
                if place is None or not is_trained(place) or not run.planned.row:
                    continue
                if place.parent in self.others or (place.parent == self.folder and not own_rows):
                    others[run.planned.row] = str(swept(place).get("row", run.planned.row))
                else:
                    mark(place, run.planned)
        named = ", ".join(f"{theirs} (here {row})" for row, theirs in others.items() if theirs != row)
        if named:
            log.warning(f"archived runs keep the rows of tables that they have there: {named}")

    def keep(self, runs: Iterable[RunStatus], folder: Path) -> None:
        """Archive the runs of a sweep's folder that are done and are not archived yet.

        A disk that refuses is named in ``fault`` and the log, and does not end the work on other runs.
        """
        if self.folder is None:
            return
        for run in runs:
            if run.state != "done" or run.planned.id in self.foreign or self.find(run.planned) is not None:
                continue
            try:
                place = store(folder / run.planned.name, self.folder)
            except (MachineError, UserError) as error:
                if run.planned.id not in self._told:  # once, though it is tried again at every look
                    log.error(f"{run.planned.name} is not archived: {error}")
                self._told.add(run.planned.id)
                self.fault = str(error)
                continue
            self.fault = ""
            self._found[run.planned.id] = place
            self._runs.setdefault(run_id(run.planned.config), []).append(place)


def store(run: Path, archive: Path) -> Path:
    """Copy what an archive keeps of a run; return its folder there.

    Where the archive has this very training, it gets the scores that were made since. Another training of the same run
    is left alone, and this one gets a name with a number. Raises UserError for what is no run.
    """
    with machine_errors(archive):
        archive.mkdir(parents=True, exist_ok=True)
        _remove_stale(archive)
        number = 1
        while True:
            place = archive / (run.name if number == 1 else f"{run.name}~{number}")
            if place.is_dir() and same_training(run, place):
                copy_files(run, place)
                return place
            if place.exists():
                number += 1
            elif _placed(run, place):  # else another process took the name: see what it put there
                return place


def _placed(run: Path, place: Path) -> bool:
    """Write a run's folder under a name that is free; return False where another process has taken the name since."""
    staging = Path(tempfile.mkdtemp(dir=place.parent, prefix=STAGED))
    try:
        copy_files(run, staging)
        staging.chmod(FOLDER_MODE)
        os.rename(staging, place)  # noqa: PTH104 (fails where there is a run already, as it should)
    except OSError:
        if not place.exists():
            raise
        return False
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return True


def _holds(place: Path, planned: PlannedRun) -> bool:
    try:
        return is_done(place, planned.config)
    except UserError as error:
        log.warning(f"{place} does not count as done: {error}")
        return False


def _known(folder: Path) -> Iterator[tuple[str, Path]]:
    for run in runs_in(folder):
        try:
            config = read_run_config(run)
        except UserError as error:
            log.warning(f"{run} is left out: {error}")
            continue
        if config is not None:
            yield run_id(config), run


def _remove_stale(archive: Path) -> None:
    for left in archive.glob(f"{STAGED}*"):
        try:
            if time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
        except OSError:  # another process removes it
            continue
