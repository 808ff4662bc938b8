"""The trials of a search as files: ``trials/0003.json``, one a trial. They are the truth about it; all else follows."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from innerpo.errors import UserError
from innerpo.files import write_text

State = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """One trial: the values that it tried and what came of it. ``running``: it has not ended, whoever is at it."""

    number: int
    params: Mapping[str, float]
    state: State = "running"
    value: float = float("nan")
    """What is made as large as possible: accuracy, less the penalty on drift. Of a pruned trial, at its last look."""
    accuracy: float = float("nan")
    drift: float = float("nan")
    """Output drift in nats per token."""
    looks: Mapping[int, float] = field(default_factory=dict)
    """Value on the validation part at steps before the last."""
    steps: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def name(self) -> str:
        """Name of its lease and of its folder."""
        return f"trial-{self.number:04d}"

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.state != "running"


def write_trial(folder: Path, trial: Trial) -> None:
    """Write the file of a trial, whole or not at all. Unknown numbers are left out, since JSON has no NaN."""
    known = {k: v for k, v in asdict(trial).items() if not (isinstance(v, float) and math.isnan(v))}
    write_text(_path(folder, trial.number), json.dumps(known, indent=2) + "\n")


def read_trial(folder: Path, number: int) -> Trial:
    """Return a trial. Raises UserError where its file cannot be read."""
    path = _path(folder, number)
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        looks = {int(step): float(value) for step, value in values.pop("looks", {}).items()}
        found = Trial(**values, looks=looks)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no record of a trial: {error}") from error
    if found.number != number or found.state not in get_args(State):
        raise UserError(f"{path} is no record of trial {number}: it says number {found.number}, state {found.state!r}")
    return found


def read_trials(folder: Path) -> list[Trial]:
    """Return the trials of a folder, in their order. Raises UserError where one is missing or cannot be read."""
    numbers = sorted(int(path.stem) for path in (folder / "trials").glob("[0-9]*.json") if path.stem.isdigit())
    if numbers != list(range(len(numbers))):
        lost = next(n for n in range(numbers[-1] + 1) if n not in numbers)
        raise UserError(f"{_path(folder, lost)} is missing; the trials after it were chosen by what it found")
    return [read_trial(folder, number) for number in numbers]


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the whole trial with the highest value, of equal ones the first; None where none has ended whole."""
    whole = [trial for trial in trials if trial.state == "complete"]
    return max(whole, key=lambda trial: (trial.value, -trial.number), default=None)


def seconds_of(trials: Sequence[Trial]) -> float:
    """Seconds that trials took together, those of pruned and failed ones too."""
    return sum(trial.seconds for trial in trials)


def _path(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:04d}.json"
