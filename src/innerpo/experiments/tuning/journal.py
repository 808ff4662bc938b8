"""Optuna's part: it suggests values and says which trials are hopeless, from a journal that mirrors the trials' files.

The journal is never trusted. Before each use it is compared with the files (trials.py): what it lacks is added, and one
that is torn, lost or says something else is written anew. Every call is made while no other process uses the journal,
so its own lock can only be one that a killed process left.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from innerpo.errors import UserError
from innerpo.experiments.tuning.request import TuneRequest
from innerpo.experiments.tuning.trials import Trial
from innerpo.files import machine_errors
from innerpo.spaces import Range

NAME = "innerpo"
STARTUP = 5
"""Trials before the sampler models what it has seen, and before anything is pruned; those up to then are random."""


def check_installed() -> None:
    """Raise UserError where Optuna is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("tuning needs Optuna, which is not installed: pip install 'innerpo[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def suggest(path: Path, trials: Sequence[Trial], request: TuneRequest) -> dict[str, float]:
    """Return the values that the next trial should try: the same for the same trials and seed.

    The first trial tries the values to start from, so that there is something to be better than.
    """
    if not trials:
        return request.start
    study = mirror(path, trials, request)
    found = study.ask(_distributions(request.space))
    return {name: float(found.params[name]) for name in request.space}


def is_hopeless(path: Path, trials: Sequence[Trial], request: TuneRequest, number: int) -> bool:
    """Whether a running trial's best look is below the median of whole trials at the same step."""
    import optuna

    study, trial = mirror(path, trials, request), trials[number]
    if not trial.looks:
        return False
    frozen = study.get_trials(deepcopy=False)[number]
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=0)
    return bool(pruner.prune(study, frozen))


def importances(path: Path, trials: Sequence[Trial], request: TuneRequest) -> dict[str, float]:
    """Return each field's share in what made trials good or bad (PED-ANOVA), largest first; none for too few trials."""
    import optuna

    whole = [trial for trial in trials if trial.state == "complete"]
    if len(whole) < 4 or len({trial.value for trial in whole}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(optuna.importance.get_param_importances(mirror(path, trials, request)))


def mirror(path: Path, trials: Sequence[Trial], request: TuneRequest) -> Any:
    """Return Optuna's study of a search, brought to what the trials' files say."""
    check_installed()
    with machine_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{path.name}.lock*"):
            left.unlink(missing_ok=True)
        study = _opened(path, request, len(trials))
        if study is None or not _caught_up(study, trials, request.space):
            path.unlink(missing_ok=True)
            study = _created(path, request, len(trials))
            for trial in trials:
                study.add_trial(_frozen(trial, request.space))
    return study


def _sampler(request: TuneRequest, number: int) -> Any:
    """A sampler of its own for each trial: what it draws does not depend on what the process did before."""
    import optuna

    seed = int.from_bytes(hashlib.sha256(f"{request.seed}/{number}".encode()).digest()[:4], "big")
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)


def _created(path: Path, request: TuneRequest, number: int) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(
        storage=storage, study_name=NAME, direction="maximize", sampler=_sampler(request, number), load_if_exists=True
    )


def _opened(path: Path, request: TuneRequest, number: int) -> Any:
    """The study of a journal; None where there is none or it cannot be read. A torn line would spoil the next one."""
    if not path.is_file() or not path.read_bytes().endswith(b"\n"):
        return None
    with suppress(Exception):  # whatever a damaged journal does to its reader
        return _created(path, request, number)
    return None


def _caught_up(study: Any, trials: Sequence[Trial], space: Mapping[str, Range]) -> bool:
    """Add what a journal lacks; False where it says something else than the files."""
    held = study.get_trials()
    if len(held) > len(trials):
        return False
    for trial, known in zip(trials, held, strict=False):
        wanted = _frozen(trial, space)
        if _facts(known) == _facts(wanted):
            continue
        if known.state.is_finished() or known.params != wanted.params or known.distributions != wanted.distributions:
            return False
        if not known.intermediate_values.items() <= wanted.intermediate_values.items():
            return False
        for step, value in wanted.intermediate_values.items():
            if step not in known.intermediate_values:
                study._storage.set_trial_intermediate_value(known._trial_id, step, value)
        if trial.has_ended:
            study.tell(trial.number, wanted.value if trial.state == "complete" else None, state=wanted.state)
    for trial in trials[len(held) :]:
        study.add_trial(_frozen(trial, space))
    return [_facts(t) for t in study.get_trials()] == [_facts(_frozen(t, space)) for t in trials]


def _frozen(trial: Trial, space: Mapping[str, Range]) -> Any:
    from optuna.trial import FrozenTrial, TrialState

    states = {"running": TrialState.RUNNING, "complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    state = states.get(trial.state, TrialState.FAIL)
    now = datetime.now(UTC).replace(tzinfo=None)
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=state,
        value=trial.value if trial.state in ("complete", "pruned") else None,
        datetime_start=now,
        datetime_complete=now if trial.has_ended else None,
        params=dict(trial.params),
        distributions=_distributions(space),
        user_attrs={},
        system_attrs={},
        intermediate_values=dict(trial.looks),
    )


def _facts(trial: Any) -> tuple[Any, ...]:
    """What counts of a trial of Optuna."""
    return (trial.number, trial.state, trial.params, trial.value, trial.intermediate_values, trial.distributions)


def _distributions(space: Mapping[str, Range]) -> dict[str, Any]:
    from optuna.distributions import FloatDistribution

    return {name: FloatDistribution(low, high, log=scale == "log") for name, (low, high, scale) in space.items()}
