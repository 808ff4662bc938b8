"""Where a run stands, by what its files say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from innerpo.training.state import RunState, is_alive

Status = Literal["planned", "training", "scoring", "finished", "failed", "interrupted", "stale"]

QUIET = 900.0
"""Seconds without a sign of life after which a run whose process cannot be seen counts as stale."""


@dataclass(frozen=True)
class Evidence:
    """What the files of a run say. Times are seconds since 1970, NaN where there is no such file."""

    state: RunState | None = None
    has_config: bool = False
    has_record: bool = False
    has_scores: bool = False
    log_changed: float = float("nan")
    has_checkpoints: bool = False


def status_of(found: Evidence, now: float) -> tuple[Status, str]:
    """Return the status of a run and a few words on it.

    state.json counts first. Runs without one are finished (their record is written last), or of an older version or
    another program: those are judged by the time of the last log line.
    """
    if found.state is not None:
        return _by_state(found.state, found.has_record, now)
    if found.has_record:
        return "finished", "" if found.has_scores else "not scored"
    if not math.isnan(found.log_changed):
        if now - found.log_changed < QUIET:
            return "training", ""
        quiet = f"no log line since {minutes(now - found.log_changed)}"
        return ("interrupted", f"{quiet}; can be resumed") if found.has_checkpoints else ("stale", quiet)
    if found.has_checkpoints:
        return "interrupted", "can be resumed"
    return "planned", "" if found.has_config else "no config.yaml"


def _by_state(state: RunState, trained: bool, now: float) -> tuple[Status, str]:
    if state.phase == "failed":
        return "failed", state.error
    if state.phase == "interrupted":
        return "interrupted", _stage(trained)
    alive = is_alive(state)
    if alive is False:
        return "interrupted", f"process {state.pid} ended; {_stage(trained)}"
    if alive is None and not now - state.updated < QUIET:
        return "stale", f"no sign of life from {state.host} since {minutes(now - state.updated)}"
    return state.phase, "" if alive else f"on {state.host}"


def _stage(trained: bool) -> str:
    return "trained, scores are incomplete" if trained else "training is incomplete"


def minutes(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``; a dash for what is unknown."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    total = round(seconds / 60)
    if total < 60:
        return f"{total} min"
    hours, rest = divmod(total, 60)
    return f"{hours} h {rest:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def planned_steps(config: Mapping[str, Any], record: Mapping[str, Any], last_line: Mapping[str, Any]) -> int:
    """Return the optimiser steps of a training whose state does not say them; -1 where they cannot be known.

    They are those of the record, ``training.max_steps``, or what step and epoch of a log line imply.
    """
    training = config.get("training")
    training = training if isinstance(training, dict) else {}
    for known in (record.get("steps"), training.get("max_steps")):
        if isinstance(known, int) and known > 0:
            return known
    step, epoch, epochs = last_line.get("step"), last_line.get("epoch"), training.get("epochs")
    values = [v for v in (step, epoch, epochs) if isinstance(v, int | float) and math.isfinite(v) and v > 0]
    return round(values[0] * values[2] / values[1]) if len(values) == 3 else -1
