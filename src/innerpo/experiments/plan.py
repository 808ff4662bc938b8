"""What is to be run, and in which order: runs, each with its row in tables.

A plan is kept as a file, so that any process can take part that sees the folder.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from innerpo.config.identity import run_id, scores_id
from innerpo.config.run import RunConfig, default_run, to_dict
from innerpo.config.yaml import overlay
from innerpo.errors import UserError
from innerpo.experiments.layout import plans
from innerpo.files import write_text
from innerpo.registry import METHODS


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep: its config, its row in tables (empty: as the config says), and its group: one after another."""

    config: RunConfig
    row: str = ""
    group: int = 0

    @cached_property
    def name(self) -> str:
        """Name of its folder."""
        return self.config.run_name

    @cached_property
    def id(self) -> str:
        """What is trained, and on what it is scored, if at all: two entries may score one run on different sets."""
        e = self.config.eval
        return f"{run_id(self.config)}/{scores_id(self.config)}/{e.strengths}/{e.strength_sets}/{e.skip}"

    @cached_property
    def request(self) -> str:
        """Return 8 hex digits that stand for all that is asked for: a failure belongs to it, not to the run."""
        text = json.dumps(portable(self.config), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @cached_property
    def shared(self) -> tuple[Any, ...]:
        """What runs that stand beside one another share: the base model, then the data set and its reference."""
        model, data = self.config.model, self.config.data
        return (model.base_model, model.revision, model.dtype, model.load_in_4bit, data.dataset)


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, in the order in which they are done."""

    runs: tuple[PlannedRun, ...]

    @cached_property
    def id(self) -> str:
        """Name of the plan's file."""
        return hashlib.sha256(_text(self).encode()).hexdigest()[:12]


def ordered(runs: Iterable[PlannedRun]) -> Plan:
    """Return a plan: group by group, and in each those beside one another that share most. Each run stands once."""
    once = {run.id: run for run in reversed(list(runs))}
    given = list(reversed(once.values()))
    if not given:
        raise UserError("there is nothing to run: a study needs methods, data sets and seeds")
    first: dict[tuple[Any, ...], int] = {}
    for at, run in enumerate(given):
        for depth in range(1, len(run.shared) + 1):
            first.setdefault((run.group, *run.shared[:depth]), at)

    def place(at: int) -> tuple[int, ...]:
        run = given[at]
        return (run.group, *(first[run.group, *run.shared[:d]] for d in range(1, len(run.shared) + 1)), at)

    return Plan(tuple(given[at] for at in sorted(range(len(given)), key=place)))


def preferred(runs: Sequence[PlannedRun], last: PlannedRun | None, busy: Iterable[tuple[Any, ...]]) -> list[PlannedRun]:
    """Return open runs in the order in which a process should try them.

    Within the first group: what shares most with its own last run, then what no other process is at (two that begin on
    one data set would compute its reference twice), then the order of the plan.
    """
    others = set(busy)

    def place(run: PlannedRun) -> tuple[int, int, int]:
        same = (
            0 if last is None else next((i for i, (a, b) in enumerate(_beside(run, last)) if a != b), len(run.shared))
        )
        return (run.group, -same, int(run.shared in others))

    return sorted(runs, key=place)


def _beside(a: PlannedRun, b: PlannedRun) -> list[tuple[Any, Any]]:
    return list(zip(a.shared, b.shared, strict=True))


def in_folder(plan: Plan, folder: Path) -> Plan:
    """Return the plan with all runs in a folder."""
    return Plan(tuple(replace(run, config=replace(run.config, output_dir=folder)) for run in plan.runs))


def write_plan(plan: Plan, folder: Path) -> str:
    """Keep a plan with its folder; return its id."""
    write_text(plans(folder) / f"{plan.id}.json", _text(plan))
    return plan.id


def read_plan(folder: Path, id: str) -> Plan:
    """Return a plan that is kept with a folder. Raises UserError where there is none."""
    path = plans(folder) / f"{id}.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no plan of a sweep: {error}") from error
    return in_folder(Plan(tuple(_run(values, str(path)) for values in found["runs"])), folder)


def _text(plan: Plan) -> str:
    runs = [{"row": run.row, "group": run.group, "config": portable(run.config)} for run in plan.runs]
    return json.dumps({"runs": runs}, indent=1) + "\n"


def portable(config: RunConfig) -> dict[str, Any]:
    """Return a config as plain data without the place of its folder, which other machines may see elsewhere."""
    return {key: value for key, value in to_dict(config).items() if key != "output_dir"}


def _run(values: dict[str, Any], where: str) -> PlannedRun:
    name = values["config"]["method"]["name"]
    default = default_run(name) if name in METHODS else RunConfig()
    return PlannedRun(overlay(default, values["config"], where), values["row"], values["group"])
