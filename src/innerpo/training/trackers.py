"""Trackers of training: name, config, group and metrics of a run in wandb, mlflow or trackio; tensorboard's folder.

``innerpo.registry.TRACKERS`` names those that are written here. Any other that transformers knows (tensorboard, ...) is
left to transformers. All of them work without a network: wandb by its own WANDB_MODE=offline, mlflow in a local store.
"""

import contextlib
import importlib.util
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from innerpo.config.identity import run_id, settings
from innerpo.config.run import RunConfig
from innerpo.errors import UserError, near_matches
from innerpo.registry import TRACKERS, resolve
from innerpo.training.paths import SWEEP, TRIALS

log = logging.getLogger(__name__)

PROJECT = "innerpo"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run. ``group`` is empty for a run on its own, by default the folder of a sweep.

    ``folder`` is where files of the run alone may stay, ``store`` the folder of all runs.
    """

    name: str
    group: str
    folder: Path
    store: Path
    config: Mapping[str, str | int | float | bool | None]


class Tracker(Protocol):
    """A run that a tracker has opened."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add the metrics of an optimiser step."""

    def finish(self, succeeded: bool) -> None:
        """Close the run."""


def tracked_run(config: RunConfig) -> TrackedRun:
    """Return what trackers are told of a run: every option by its dotted name, as it stands in config.yaml."""
    plain = (str, int, float, bool, type(None))
    options = {s.name: s.value if isinstance(s.value, plain) else str(s.value) for s in settings(config)}
    store = _store(config)
    options |= {"run_id": run_id(config), "output_dir": str(store)}
    group = config.training.report_group or (store.name if SWEEP in config.output_dir.parts else "")
    return TrackedRun(config.run_name, group, _kept(config), store, options)


def _store(config: RunConfig) -> Path:
    """The folder of all runs: that of the sweep or search, not that of one attempt at a run."""
    parts = config.output_dir.parts
    return Path(*parts[: parts.index(SWEEP)]) if SWEEP in parts else config.output_dir


def _kept(config: RunConfig) -> Path:
    """The run's folder. That of a trial of a search goes when the trial ends: beside it then, by the trial's name."""
    parts = config.output_dir.parts
    if SWEEP not in parts or parts[parts.index(SWEEP) + 1] != TRIALS:
        return config.run_dir
    return _store(config) / "trackers" / parts[parts.index(SWEEP) + 2]


def check_trackers(config: RunConfig) -> None:
    """Raise UserError for a tracker that nobody knows, or whose package is not installed."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK as OTHERS

    for name in config.training.report_to:
        if name not in TRACKERS and name not in OTHERS:
            raise UserError(f"training.report_to: unknown tracker {name!r}{near_matches(name, [*TRACKERS, *OTHERS])}")
        if name in ("tensorboard", *TRACKERS):
            if importlib.util.find_spec(name) is None:
                raise UserError(f"training.report_to: {name} is not installed; pip install 'innerpo[trackers]' has it")
            continue
        try:
            OTHERS[name]()  # as the trainer will make it
        except (RuntimeError, ImportError) as error:
            raise UserError(f"training.report_to: {name}: {_one_line(error)}") from error


def left_to_transformers(config: RunConfig) -> list[str]:
    """Return the trackers that transformers' own callbacks serve."""
    return [name for name in config.training.report_to if name not in TRACKERS]


@contextmanager
def tracked(config: RunConfig) -> Iterator[list[TrainerCallback]]:
    """Yield the callbacks that report a run; close it in every tracker at the end, as failed where the body fails."""
    callback = _Tracking(config)
    succeeded = False
    try:
        yield [callback] if callback.names else []
        succeeded = True
    finally:
        callback.finish(succeeded)


def place_tensorboard(trainer: Any, config: RunConfig) -> None:
    """Let tensorboard write where files may stay: its default is among the checkpoints, which are removed."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and not os.environ.get("TENSORBOARD_LOGGING_DIR"):
            callback.logging_dir = str(_kept(config) / "tensorboard")


class _Tracking(TrainerCallback):
    def __init__(self, config: RunConfig) -> None:
        self.run = tracked_run(config)
        self.names = [name for name in config.training.report_to if name in TRACKERS]
        self.open: dict[str, Tracker] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the run in every tracker. Raises UserError where one cannot."""
        for name in self.names if state.is_world_process_zero and not self.open else ():
            try:
                self.open[name] = resolve(TRACKERS, name, "tracker")(self.run)
            except Exception as error:  # whatever a tracker's package raises
                raise UserError(f"training.report_to: {name} could not begin a run: {_one_line(error)}") from error

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        metrics = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        self._tell(lambda tracker: tracker.log(metrics, state.global_step))

    def finish(self, succeeded: bool) -> None:
        """Close the run in every tracker."""
        self._tell(lambda tracker: tracker.finish(succeeded))
        self.open = {}

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        """Tell every tracker something. One that fails is told no more: training must not end for its curves."""
        for name, tracker in list(self.open.items()):
            try:
                what(tracker)
            except Exception as error:
                log.warning(f"{name} gets nothing more of this run: {_one_line(error)}; metrics.jsonl has all of it")
                del self.open[name]


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


class WandbTracker:
    """A run of Weights & Biases, its files in the run's folder (or WANDB_DIR)."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            group=run.group or None,
            config=dict(run.config),
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            settings=wandb.Settings(silent=True, console="off"),
        )
        log.info(f"wandb: {self.run.dir if self.run.offline else self.run.url}")

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add the metrics of an optimiser step."""
        self.run.log(metrics, step=step)

    def finish(self, succeeded: bool) -> None:
        """Close the run."""
        self.run.finish(exit_code=0 if succeeded else 1)


class MlflowTracker:
    """A run of MLflow, in the experiment of its group; in MLFLOW_TRACKING_URI, else in mlruns beside the runs."""

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow 3.17 has it on request only
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        where = os.environ.get("MLFLOW_TRACKING_URI") or (run.store.absolute() / "mlruns").as_uri()
        self.client, experiment = MlflowClient(tracking_uri=where), run.group or PROJECT
        self.id = self.client.create_run(
            self._experiment(experiment), run_name=run.name, tags={"group": run.group} if run.group else {}
        ).info.run_id
        params = [Param(name, str(value)[:500]) for name, value in run.config.items()]
        for start in range(0, len(params), 100):  # the most that one request takes
            self.client.log_batch(self.id, params=params[start : start + 100])
        log.info(f"mlflow: {where}, experiment {experiment}")

    def _experiment(self, name: str) -> str:
        """The number of an experiment, made where there is none; several workers of a sweep may do so at once."""
        from mlflow.exceptions import MlflowException

        if (found := self.client.get_experiment_by_name(name)) is None:
            try:
                return str(self.client.create_experiment(name))
            except MlflowException:
                if (found := self.client.get_experiment_by_name(name)) is None:
                    raise
        return str(found.experiment_id)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add the metrics of an optimiser step."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        # In a store of files a metric is a file: `loss` and `loss/output` could not both be one.
        found = [Metric(name.replace("/", "."), value, now, step) for name, value in metrics.items()]
        self.client.log_batch(self.id, metrics=found)

    def finish(self, succeeded: bool) -> None:
        """Close the run."""
        self.client.set_terminated(self.id, "FINISHED" if succeeded else "FAILED")


class TrackioTracker:
    """A run of Trackio, in its own folder (TRACKIO_DIR)."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):  # it prints
            self.run = trackio.init(
                project=PROJECT, name=run.name, group=run.group or None, config=dict(run.config), embed=False
            )
        log.info(f"trackio: project {PROJECT}, run {self.run.name}")

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add the metrics of an optimiser step."""
        self.run.log(metrics, step=step)

    def finish(self, succeeded: bool) -> None:
        """Close the run; Trackio knows no failed ones."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.run.finish()
