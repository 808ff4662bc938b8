"""The archive of a study: folders of its finished runs without weights, small enough to be committed with the study.

Each is what the run's folder is to tables and reports: config, record, log and scores. A sweep counts a run as done
whose archived config stands for the same run by today's code, whatever fields a config has got since; where its
machine is gone, the study goes on from its archive.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from innerpo.config.identity import run_id
from innerpo.config.run import RunConfig, to_dict
from innerpo.config.yaml import as_yaml, read_run_config, read_yaml
from innerpo.errors import UserError
from innerpo.evaluation.capability_file import FILE as CAPABILITY
from innerpo.evaluation.facts import FILES
from innerpo.evaluation.sweep_folder import runs_in
from innerpo.experiments.attempt import mark
from innerpo.experiments.layout import leases
from innerpo.experiments.plan import Plan, PlannedRun
from innerpo.experiments.scored import is_done
from innerpo.experiments.status import RunStatus, seconds_of
from innerpo.files import staged_directory, write_text
from innerpo.training.paths import CONFIG, METRICS, RECORD, SWEPT

log = logging.getLogger(__name__)

FACTS = tuple(f"{stem}.{kind}" for stem in FILES.values() for kind in ("parquet", "jsonl"))
KEPT = (RECORD, SWEPT, METRICS, *FACTS, "overlap.jsonl", "inspect.json", CAPABILITY, "headline.json")
"""Files of a run, and of the folders of other scores beneath it, that are archived beside the config."""

PATHS = ("genies_dir", "ethics_dir", "cache_dir")
"""Fields of ``data`` that name places on a machine and change nothing: left out of an archived config."""


@dataclass
class Archive:
    """The archived runs in a folder, which need not exist yet; without a folder nothing is archived.

    A run is found by what it trains, not by its name, which holds an id of all fields that a config had then.
    """

    folder: Path | None = None
    _runs: dict[str, Path] = field(init=False, repr=False)
    _done: set[str] = field(init=False, repr=False, default_factory=set)

    def __post_init__(self) -> None:
        self._runs = dict(_known(self.folder)) if self.folder is not None and self.folder.is_dir() else {}

    def find(self, planned: PlannedRun) -> Path | None:
        """Return the folder in which a run lies with all scores that are asked of it; None where there is none."""
        place = self._runs.get(run_id(planned.config))
        if place is None or not (planned.id in self._done or is_done(place, planned.config)):
            return None
        self._done.add(planned.id)
        return place

    def split(self, plan: Plan) -> tuple[tuple[RunStatus, ...], tuple[PlannedRun, ...]]:
        """Return how the runs of a plan stand that are archived, and those that are not."""
        found = {planned.id: self.find(planned) for planned in plan.runs}
        done = [RunStatus(p, "done", seconds_of(place), "archived") for p in plan.runs if (place := found[p.id])]
        return tuple(done), tuple(p for p in plan.runs if found[p.id] is None)

    def name_rows(self, done: Iterable[RunStatus]) -> None:
        """Give archived runs the rows of tables that a plan names."""
        for run in done:
            place = self.find(run.planned)
            if place is not None and run.planned.row:
                mark(place, run.planned)

    def keep(self, runs: Iterable[RunStatus], folder: Path) -> None:
        """Archive the runs of a sweep's folder that are done and are not archived yet."""
        if self.folder is None:
            return
        for run in runs:
            if run.state == "done" and self.find(run.planned) is None:
                place = self.folder / run.planned.name
                with FileLock(leases(folder) / "archive.lock"):  # of another sweep that does the same
                    if not is_done(place, run.planned.config):
                        store(folder / run.planned.name, place)
                self._runs[run_id(run.planned.config)] = place


def store(run: Path, place: Path) -> None:
    """Copy what an archive keeps of a run to a folder of its own there, in place of what that holds."""
    config = read_run_config(run)
    if config is None:
        raise UserError(f"{run} is no run: it has no {CONFIG}")
    with staged_directory(place) as staging:
        for source in (run, *sorted(run.glob("eval-*"))):
            target = staging if source == run else staging / source.name
            target.mkdir(exist_ok=True)
            for name in KEPT:
                if (source / name).is_file():
                    shutil.copyfile(source / name, target / name)
        write_text(staging / CONFIG, as_yaml(_without_places(config) | _identity(run)))


def _known(folder: Path) -> Iterator[tuple[str, Path]]:
    for run in runs_in(folder):
        try:
            config = read_run_config(run)
        except UserError as error:
            log.warning(f"{run} is left out: {error}")
            continue
        if config is not None:
            yield run_id(config), run


def _without_places(config: RunConfig) -> dict[str, Any]:
    usual = RunConfig()
    data = replace(config.data, **{name: getattr(usual.data, name) for name in PATHS})
    return to_dict(replace(config, data=data, output_dir=usual.output_dir))


def _identity(run: Path) -> dict[str, Any]:
    values = read_yaml(run / CONFIG)
    return {key: values[key] for key in ("run_id", "inputs") if key in values}
