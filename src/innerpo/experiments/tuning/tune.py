"""Tune a method's options: trials on the train split alone, until the budget is spent; then the best as a config."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import nested, overlay
from innerpo.data.shifts import shifts_from
from innerpo.data.sources.places import same_data
from innerpo.errors import UserError
from innerpo.experiments.tuning.journal import check_installed
from innerpo.experiments.tuning.outcome import Tuned, tuned, write_outcome
from innerpo.experiments.tuning.request import REPORT, RESULT, TuneRequest, keep_request, tune_request
from innerpo.experiments.tuning.trials import Trial
from innerpo.experiments.tuning.work import Budget
from innerpo.files import cache_root, machine_errors
from innerpo.progress import task
from innerpo.spaces import Range

log = logging.getLogger(__name__)


def tune(
    base: Any = None,
    method: str | RunConfig = "innerpo",
    *,
    data: str | None = None,
    trials: int = 20,
    timeout: float = 0.0,
    seed: int = 0,
    out: str | Path | None = None,
    drift_penalty: float = 0.0,
    scorer: str = "mean_logp",
    validation: float = 0.2,
    ranges: Mapping[str, Range] | None = None,
    prune: bool = True,
    **options: Any,
) -> Tuned:
    """Search a method's options for the best accuracy on a held-out part of the training data; return what was found.

    ``trials`` and ``timeout`` (seconds of all trials together; 0: any) are the budget; a folder that was begun goes on.
    Each trial trains on the rest of the train split. No test split and no target set is ever read. ``seed`` is that of
    the search, ``validation`` the share (or number) of prompts held out, ``drift_penalty`` what a nat per token of
    output drift costs. ``ranges``: field -> (lowest, highest, "log" or "linear"), besides or instead of the method's
    own. ``options`` are fields by their dotted names; those are fixed. The folder ``out`` holds the trials, a page and
    ``best.yaml``, the config of the best. Raises UserError for what was asked for wrongly, and where Optuna is missing.
    """
    config = method if isinstance(method, RunConfig) else overlay(default_run(method), nested(options), "options")
    if isinstance(method, RunConfig) and options:
        raise UserError("a RunConfig holds all options already; change it with dataclasses.replace")
    if data is not None:
        config = replace(config, data=replace(config.data, dataset=data))
    if base is not None:
        from innerpo.model.loading import as_loaded

        config = replace(config, model=as_loaded(config.model, base))
    given: dict[str, Any] = {"seed": seed, "drift_penalty": drift_penalty, "scorer": scorer}
    request = tune_request(config, ranges, set(options), validation=validation, prune=prune, **given)
    return search(request, Budget(trials, timeout), None if out is None else Path(out), base)


def folder_of(request: TuneRequest, out: Path | None) -> Path:
    """The folder of a search: as asked, or beside the runs."""
    return out or request.config.output_dir / f"tune_{request.config.run_name}"


def search(
    request: TuneRequest,
    budget: Budget,
    out: Path | None = None,
    base: Any = None,
    each: Callable[[Trial], None] | None = None,
) -> Tuned:
    """Do a search in its folder and write what it found. ``each`` hears of every trial that ends here."""
    check_installed()
    _check(request, budget)
    from innerpo.experiments.tuning.objective import try_config
    from innerpo.experiments.tuning.parts import parts_of
    from innerpo.experiments.tuning.trials import read_trials
    from innerpo.experiments.tuning.work import exclusive, work
    from innerpo.model.adapters import check_bare
    from innerpo.model.loading import check_precision, load_base
    from innerpo.training.arguments import training_arguments

    training_arguments(request.config)
    folder, parts = folder_of(request, out), parts_of(request)
    with machine_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    base = base or load_base(request.config.model, cache_root(request.config.data.cache_dir))
    check_bare(base)
    check_precision(request.config.model, base)
    with exclusive(folder):
        keep_request(folder, request, {**parts.facts, "base": base.identity})
    old = _is_old(folder)
    before = done = sum(trial.has_ended for trial in read_trials(folder))
    with task("trials", budget.trials) as update:
        update(done)

        def ended(trial: Trial) -> None:
            nonlocal done
            done += 1
            update(done, f"{trial.name} {trial.state}")
            write_outcome(folder, request, parts)
            if each is not None:
                each(trial)

        work(folder, request, budget, lambda c, look: try_config(c, base, parts, request, look), each=ended)
    write_outcome(folder, request, parts, page=done > before or old)
    return tuned(folder, request, parts)


def _is_old(folder: Path) -> bool:
    """Whether the page is missing, or a result or a trial was written after it, as an interrupt leaves it."""
    page, later = folder / REPORT, [folder / RESULT, *(folder / "trials").glob("[0-9]*.json")]
    if not page.is_file():
        return True
    return any(path.is_file() and page.stat().st_mtime < path.stat().st_mtime for path in later)


def _check(request: TuneRequest, budget: Budget) -> None:
    if budget.trials < 1:
        raise UserError(f"trials must be at least 1, got {budget.trials}")
    if not budget.seconds >= 0:
        raise UserError(f"timeout must not be negative, got {budget.seconds:g}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a search runs in one process; several commands on one folder share its trials")
    _check_anchor(request.config)
    if request.config.method.frozen:
        raise UserError(f"{request.config.method.name} trains nothing, so there is nothing to tune")
    if request.scorer == "inner" and not request.config.method.reads_states:
        raise UserError(f"the scorer inner needs directions, and {request.config.method.name} has none")


def _check_anchor(config: RunConfig) -> None:
    """Raise UserError for anchors on texts that a search must not see: a target's, or the held-out prompts' own."""
    method, source = config.method, config.data.dataset
    if not (method.anchor_drift or method.anchor_kl):
        return
    own, targets = same_data(method.anchor_data, source), [shift.target for shift in shifts_from(source)]
    if own or any(same_data(method.anchor_data, target) for target in targets):
        what = "has the held-out prompts" if own else f"is a target of {source}"
        raise UserError(
            f"method.anchor_data={method.anchor_data} {what}, which a search must not read; use self or sentences"
        )
