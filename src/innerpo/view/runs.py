"""The runs beneath a folder as records, read from files that may be half-written or vanish meanwhile."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import yaml

from innerpo.training.paths import CHECKPOINTS, CONFIG, METRICS, RECORD, STATE
from innerpo.training.state import RunState, read_state
from innerpo.view.folders import OutsideError, evaluations, run_folder, run_paths
from innerpo.view.reading import Found, Log, Reader, is_whole_jsonl, is_whole_parquet, whole
from innerpo.view.status import Evidence, Status, planned_steps, status_of

HEADLINE = "headline.json"
SCORES = ("scores", "pairs", "sets")
CHECKS = (("parquet", is_whole_parquet), ("jsonl", is_whole_jsonl))


@dataclass(frozen=True)
class Run:
    """A run as a page shows it. Counts are -1 and times NaN where they are not known."""

    path: str
    """Relative to the root; "" is the root itself."""
    name: str
    folder: Path
    status: Status
    detail: str
    task: str
    done: int
    total: int
    seconds_left: float
    changed: float
    """When a file of the run last changed, seconds since 1970."""
    config: Mapping[str, Any]
    config_text: str
    record: Mapping[str, Any]
    log: Log
    tables: Mapping[str, Mapping[str, Any]]
    """Folder of scores ("" or eval-...) -> content of its headline.json."""
    scored: bool = False
    """Whether there are files of scores."""
    problems: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """The method's label, as far as the files say."""
        section = self.option("method", "name")
        return str(self.record.get("method") or section or "")

    @property
    def dataset(self) -> str:
        """The training data set; "" unknown."""
        return str(self.record.get("dataset") or self.option("data", "dataset") or "")

    @property
    def seed(self) -> str:
        """The training seed; "" unknown."""
        value = self.option("training", "seed")
        return "" if value is None else str(value)

    def option(self, section: str, name: str) -> Any:
        """Return a value of the config, None where there is none."""
        values = self.config.get(section)
        return values.get(name) if isinstance(values, dict) else None


@dataclass
class Runs:
    """The runs beneath a root. One thread reads at a time; files that did not change are not read again."""

    root: Path
    reader: Reader = field(init=False)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.reader = Reader(self.root)

    def all(self) -> list[Run]:
        """Return every run, sorted by path."""
        with self._lock:
            found = [run for path in run_paths(self.root) if (run := self._try(path)) is not None]
            folders = {run.folder for run in found}
            self.reader.forget(folders | {folder / name for folder in folders for name in evaluations(folder)})
        return found

    def one(self, path: str) -> Run:
        """Return a run by its path. Raises OutsideError where there is none."""
        with self._lock:
            return self._read(path)

    def _try(self, path: str) -> Run | None:
        try:
            return self._read(path)
        except OutsideError:  # vanished since it was listed
            return None

    def _read(self, path: str) -> Run:
        folder, read = run_folder(self.root, path), self.reader.read
        config, record = read(folder / CONFIG, _yaml_mapping), read(folder / RECORD, _json_mapping)
        state, log = read(folder / STATE, _state), self.reader.log(folder / METRICS)
        parts = ["", *evaluations(folder)]
        headlines = {part: read(folder / part / HEADLINE, _json_mapping) for part in parts}
        scores = [
            read(folder / part / f"{stem}.{kind}", check) for part in parts for stem in SCORES for kind, check in CHECKS
        ]
        text = read(folder / CONFIG, _text)
        files: list[Found[Any]] = [config, record, state, *headlines.values(), *scores]
        evidence = Evidence(
            state.value,
            config.exists,
            record.value is not None,
            headlines[""].value is not None,
            log.changed,
            _has_checkpoints(folder),
        )
        status, detail = status_of(evidence, time.time())
        done, total = _progress(state.value, config.value or {}, record.value or {}, log)
        times = [found.changed for found in files if found.exists] + [log.changed]
        return Run(
            path=path,
            name=path or folder.name,
            folder=folder,
            status=status,
            detail=detail,
            task="" if state.value is None else state.value.task,
            done=done,
            total=total,
            seconds_left=state.value.seconds_left if state.value and status in ("training", "scoring") else math.nan,
            changed=max((t for t in times if not math.isnan(t)), default=math.nan),
            config=config.value or {},
            config_text=text.value or "",
            record=record.value or {},
            log=log,
            tables={part: found.value for part, found in headlines.items() if found.value is not None},
            scored=any(found.value for found in scores),
            problems=tuple(dict.fromkeys(found.problem for found in files if found.problem)) + _log_problems(log),
        )


def _progress(
    state: RunState | None, config: Mapping[str, Any], record: Mapping[str, Any], log: Log
) -> tuple[int, int]:
    """Steps done and planned: of the task at hand, else of the training."""
    if state is not None and state.total >= 0:
        return max(state.done, 0), state.total
    last = log.lines[-1] if log.lines else {}
    return int(last.get("step", 0 if config else -1)), planned_steps(config, record, last)


def _has_checkpoints(folder: Path) -> bool:
    try:
        return any(path.name.startswith("checkpoint-") for path in (folder / CHECKPOINTS).iterdir())
    except OSError:
        return False


def _log_problems(log: Log) -> tuple[str, ...]:
    bad = (f"{METRICS}: {log.bad} lines cannot be read and are left out",) if log.bad else ()
    return (*bad, f"{METRICS}: the last line is not complete yet") if log.torn else bad


def _text(file: BinaryIO) -> str:
    return whole(file).decode(errors="replace")


def _yaml_mapping(file: BinaryIO) -> dict[str, Any]:
    return _mapping(yaml.safe_load(whole(file).decode()))


def _json_mapping(file: BinaryIO) -> dict[str, Any]:
    return _mapping(json.loads(whole(file)))


def _mapping(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError("it holds no mapping")
    return values


def _state(file: BinaryIO) -> RunState:
    return read_state(whole(file).decode())
