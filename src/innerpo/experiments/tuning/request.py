"""What is tuned, and how trials are compared: the record that every trial of a folder belongs to (tune.json)."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innerpo.config.identity import run_id, settings
from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import nested, overlay
from innerpo.errors import UserError, near_matches
from innerpo.experiments.plan import portable
from innerpo.files import write_text
from innerpo.registry import SCORERS, check_name
from innerpo.spaces import Range, space_of

STUDY, BEST, RESULT, REPORT = "tune.json", "best.yaml", "result.json", "report.html"


@dataclass(frozen=True)
class TuneRequest:
    """A search: the config to start from, the fields that vary, and the measure. ``config`` is that of trial 0."""

    config: RunConfig
    space: Mapping[str, Range]
    seed: int = 0
    """Seed of the suggestions, and of the prompts that are held out."""
    validation: float = 0.2
    """Prompts of the train split that are held out: below 1 a share, else a number."""
    scorer: str = "mean_logp"
    drift_penalty: float = 0.0
    """Accuracy that a nat per token of output drift costs."""
    prune: bool = True

    def __post_init__(self) -> None:
        check_name(SCORERS, self.scorer, "scorer")
        if not self.space:
            raise UserError(f"{self.config.method.name} has no option to vary; name some with their ranges")
        if not self.validation > 0 or (self.validation >= 1 and not float(self.validation).is_integer()):
            raise UserError(
                f"validation must be a share of the prompts (below 1) or their number, got {self.validation:g}"
            )
        if not (math.isfinite(self.drift_penalty) and self.drift_penalty >= 0):
            raise UserError(f"drift_penalty must not be negative, got {self.drift_penalty:g}")

    @property
    def start(self) -> dict[str, float]:
        """The values of the fields that vary in the config to start from."""
        values = {s.name: s.value for s in settings(self.config)}
        return {name: float(values[name]) for name in self.space}

    def config_of(self, params: Mapping[str, float]) -> RunConfig:
        """Return the config of a trial. Raises UserError for a value that the config refuses."""
        return overlay(self.config, nested(dict(params)), "tuning")

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same; trials of different ones are not compared."""
        e = self.config.eval
        return {
            "run_id": run_id(self.config),
            "space": {name: list(found) for name, found in self.space.items()},
            "seed": self.seed,
            "validation": self.validation,
            "max_prompts": e.max_prompts,
            "negatives": e.negatives,
            "scorer": self.scorer,
            "drift_penalty": self.drift_penalty,
            "prune": self.prune,
        }


def tune_request(
    config: RunConfig, ranges: Mapping[str, Range] | None = None, fixed: Collection[str] = (), **options: Any
) -> TuneRequest:
    """Return a search from a config: the method's space with ``ranges`` instead or besides, without fields ``fixed``.

    A range is widened to hold the value to start from. A field that starts at 0 in a logarithmic range is switched off,
    and stays so. Raises UserError for a field that does not exist or is no number.
    """
    values = {s.name: s.value for s in settings(config)}
    given = dict(ranges or {})
    space: dict[str, Range] = {}
    for name, (low, high, scale) in {**space_of(config.method.name), **given}.items():
        if name not in values:
            raise UserError(f"there is no option {name!r} to vary{near_matches(name, values)}")
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, float):
            raise UserError(f"{name} cannot be varied: it is {value!r}, and only fractional numbers have ranges")
        _check(name, low, high, scale)
        if (name in fixed and name not in given) or (scale == "log" and value <= 0 and name not in given):
            continue
        if scale == "log" and value <= 0:
            raise UserError(f"{name} is {value:g} to start with, which a logarithmic range cannot hold")
        space[name] = (min(low, value), max(high, value), scale)
    return TuneRequest(config, space, **options)


def read_ranges(words: Sequence[str]) -> dict[str, Range]:
    """Return ranges from texts ``FIELD=LOW:HIGH`` or ``FIELD=LOW:HIGH:log``."""
    found: dict[str, Range] = {}
    for word in words:
        name, _, rest = word.partition("=")
        low, _, upper = rest.partition(":")
        high, _, scale = upper.partition(":")
        try:
            found[name] = (float(low), float(high), scale or "linear")
        except ValueError:
            raise UserError(f"a range is FIELD=LOW:HIGH or FIELD=LOW:HIGH:log, not {word!r}") from None
    return found


def keep_request(folder: Path, request: TuneRequest, facts: Mapping[str, Any]) -> None:
    """Write what a folder's trials belong to; where it is written, check that it is the same.

    ``facts``: what they compute on (data, base model, counts). Raises UserError naming what differs.
    """
    path, wanted = folder / STUDY, {**request.identity(), **facts}
    wanted = json.loads(json.dumps(wanted))
    if not path.is_file():
        write_text(path, json.dumps({**wanted, "config": portable(request.config)}, indent=2) + "\n")
        return
    held = read_json(path)
    before = _config_in(held, str(path))
    if before is not None:  # its id by today's code: a release may have added fields
        held["run_id"] = run_id(before)
    differs = [f"{key} is {held.get(key)!r}, here {value!r}" for key, value in wanted.items() if held.get(key) != value]
    if before is not None and held["run_id"] != wanted["run_id"]:
        differs = [*_differing(before, request.config), *differs]
    if differs:
        raise UserError(f"{folder} holds trials of another search ({differs[0]}); choose another folder")


def _config_in(held: Mapping[str, Any], where: str) -> RunConfig | None:
    """The config in the record of a search; None where today's code cannot read it."""
    try:
        values = held["config"]
        return overlay(default_run(values["method"]["name"]), values, where)
    except (UserError, KeyError, TypeError):
        return None


def _differing(held: RunConfig, here: RunConfig) -> Iterator[str]:
    """What two configs train differently, field by field."""
    values = {s.name: s.value for s in settings(held)}
    for s in settings(here):
        if "run" in s.changes and values[s.name] != s.value:
            yield f"{s.name} is {values[s.name]!r}, here {s.value!r}"


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON mapping. Raises UserError where a file holds none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a mapping, found {type(found).__name__}")
    return found


def _check(name: str, low: float, high: float, scale: str) -> None:
    if scale not in ("log", "linear"):
        raise UserError(f"the scale of {name} is log or linear, not {scale!r}")
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (scale == "log" and low <= 0):
        above = " and above 0" if scale == "log" else ""
        raise UserError(f"the range of {name} must go from a lower to a higher number{above}, got {low:g} to {high:g}")
