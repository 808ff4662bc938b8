"""Train the policy of a run: the run's trainer, progress, and what its record should hold."""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from innerpo.config.run import RunConfig
from innerpo.methods.method import Method
from innerpo.progress import Update, task
from innerpo.training.arguments import check_processes, training_arguments
from innerpo.training.collate import PairCollator
from innerpo.training.paths import METRICS
from innerpo.training.run_folder import cut_metrics
from innerpo.training.trackers import place_tensorboard, tracked
from innerpo.training.trainer import PairTrainer

log = logging.getLogger(__name__)


class _Progress(TrainerCallback):
    """Reports optimiser steps and the running loss."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._update: Update | None = None
        self._note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._update = self._stack.enter_context(task("training", state.max_steps))
        self._update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self._update is not None
        self._update(state.global_step, self._note)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._note = f"loss {logs['loss']:.3f}"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the task, also where training failed."""
        self._stack.close()


def train_policy(
    policy: nn.Module,
    method: Method,
    pairs: PairCollator,
    config: RunConfig,
    checkpoint: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train the policy in place; return steps, seconds, first and last loss for the run's record.

    Sharded weights (FSDP, DeepSpeed) are returned too, gathered, as ``gathered``.
    """
    check_processes(config)
    _log_start(config, checkpoint)
    bar = _Progress()
    with tracked(config) as trackers:
        trainer = PairTrainer(
            policy,
            training_arguments(config),
            method,
            pairs,
            compile=config.model.compile,
            grad_share_steps=config.training.grad_share_steps,
            metrics_path=config.run_dir / METRICS,
            callbacks=[bar, *trackers, *callbacks],
        )
        for prints in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(prints)
        place_tensorboard(trainer, config)
        started = time.time()
        try:
            trainer.train(None if checkpoint is None else str(checkpoint))
        finally:
            bar.close()
    seconds, steps = time.time() - started, trainer.state.global_step
    log.info(
        f"trained {steps} steps on {len(pairs.items)} pairs in {seconds:.0f} s ({seconds / max(steps, 1):.2f} s a step)"
    )
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    summary = {"steps": steps, "train_seconds": seconds, "first_loss": losses[0], "last_loss": losses[-1]}
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # all processes take part in the gathering
        summary["gathered"] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return summary


def _log_start(config: RunConfig, checkpoint: Path | None) -> None:
    """Log where training starts, and drop the log lines of steps that will be done again."""
    if checkpoint is not None:
        step = int(checkpoint.name.split("-")[1])
        log.info(f"resuming from step {step}")
        cut_metrics(config.run_dir, step)
    elif config.training.resume:
        log.info("nothing to resume from; starting at step 0")
        cut_metrics(config.run_dir, 0)
