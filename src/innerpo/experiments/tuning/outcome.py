"""What a search found: the best trial as a config that training reads, the budget behind it, and all trials as JSON."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from innerpo.config.run import RunConfig, to_dict
from innerpo.config.yaml import as_yaml
from innerpo.experiments.tuning.journal import importances
from innerpo.experiments.tuning.parts import Parts
from innerpo.experiments.tuning.request import BEST, REPORT, RESULT, TuneRequest
from innerpo.experiments.tuning.trials import Trial, best_of, read_trials, seconds_of
from innerpo.experiments.tuning.work import exclusive, journal_of
from innerpo.files import write_text


@dataclass(frozen=True)
class Tuned:
    """What a search found."""

    folder: Path
    request: TuneRequest
    trials: tuple[Trial, ...]
    """All trials; the first has the values to start from."""
    best: Trial
    """The whole trial with the highest value; of equal ones the first."""
    config: RunConfig
    """The config of the best trial, for training on all pairs."""
    importance: dict[str, float]
    """Share of each field in what made trials good or bad; empty for too few trials."""
    budget: dict[str, float]
    """Trials, seconds of all together, and prompts of the validation part."""

    @property
    def start(self) -> Trial:
        """The trial of the values to start from."""
        return self.trials[0]


def tuned(folder: Path, request: TuneRequest, parts: Parts) -> Tuned:
    """Return what the trials of a folder found; the first of them must be whole."""
    trials = read_trials(folder)
    best = best_of(trials)
    assert best is not None, "the first trial is whole or raises"
    budget = {
        "trials": float(sum(trial.has_ended for trial in trials)),
        "seconds": float(round(seconds_of(trials))),
        "prompts": float(parts.validation.n_prompts),
    }
    config = request.config_of(best.params)
    config = replace(config, training=replace(config.training, tuned=budget))
    with exclusive(folder):
        shares = importances(journal_of(folder), read_trials(folder), request)
    return Tuned(folder, request, tuple(trials), best, config, shares, budget)


def write_outcome(folder: Path, request: TuneRequest, parts: Parts, page: bool = False) -> None:
    """Write the best config and the table of trials as files; with ``page`` also as a page with charts."""
    if best_of(read_trials(folder)) is None:
        return
    found = tuned(folder, request, parts)
    write_text(folder / BEST, as_yaml(to_dict(found.config)))
    write_text(folder / RESULT, json.dumps(summary(found), indent=2) + "\n")
    if page:
        from innerpo.experiments.tuning.page import write_page

        write_page(found, folder / REPORT)


def summary(found: Tuned) -> dict[str, Any]:
    """Return what a search found as plain JSON; unknown numbers are null."""
    request = found.request
    return {
        "method": request.config.method_label,
        "dataset": request.config.data.dataset,
        "objective": objective_text(request),
        "budget": found.budget,
        "best": _plain(found.best),
        "start": _plain(found.start),
        "importance": found.importance,
        "space": {name: list(found) for name, found in request.space.items()},
        "trials": [_plain(trial) for trial in found.trials],
    }


def objective_text(request: TuneRequest) -> str:
    """What is made as large as possible, in words."""
    penalty = f" - {request.drift_penalty:g} x output drift (nats per token)" if request.drift_penalty else ""
    return f"accuracy by {request.scorer}{penalty}, on held-out prompts of {request.config.data.dataset} (train)"


def budget_text(found: Tuned) -> str:
    """The budget of a search in words."""
    states = [trial.state for trial in found.trials if trial.has_ended]
    less = [f"{states.count(state)} {state}" for state in ("pruned", "failed") if state in states]
    counts = f" ({', '.join(less)})" if less else ""
    seconds, prompts = found.budget["seconds"], found.budget["prompts"]
    return f"{len(states)} trials{counts}, {seconds:.0f} s, {prompts:.0f} validation prompts"


def _plain(trial: Trial) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(trial).items()}
