"""A Trainer whose checkpoints appear whole or not at all, and which resumes from finished ones too."""

import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from innerpo.errors import UserError
from innerpo.files import machine_errors


class CheckpointTrainer(Trainer):
    """transformers' Trainer with checkpoints that are written aside and renamed."""

    _staging: Path | None = None

    @property
    def n_steps(self) -> int:
        """Optimiser steps of the whole training."""
        raise NotImplementedError

    def check_losses(self) -> None:
        """Raise where a loss that is not finite has not been reported yet: such weights are not worth a checkpoint."""

    def last_checkpoint(self) -> str:
        """Return the newest checkpoint in the output folder. Raises UserError where there is none."""
        found = get_last_checkpoint(str(self.args.output_dir)) if Path(str(self.args.output_dir)).is_dir() else None
        if found is None:
            raise UserError(f"there is no checkpoint in {self.args.output_dir} to resume from")
        return str(found)

    def load_if_finished(self, checkpoint: str) -> bool:
        """Load a checkpoint of the last step, and tell whether it was one."""
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if state.global_step < self.n_steps:
            return False
        self._load_from_checkpoint(checkpoint, self.model)
        self.state = state
        return True

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint aside and rename it, then drop older ones: a kill leaves the last whole one."""
        self.check_losses()
        root = Path(str(self.args.output_dir))
        name = f"checkpoint-{self.state.global_step}"
        self._staging = root / ".partial"
        try:
            with machine_errors(root):
                if self.is_world_process_zero():
                    shutil.rmtree(self._staging, ignore_errors=True)
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.state.best_model_checkpoint == str(self._staging / name):  # the place it will have
                    self.state.best_model_checkpoint = str(root / name)
                if self.is_world_process_zero():
                    self.state.save_to_json(str(self._staging / name / "trainer_state.json"))
                    shutil.rmtree(root / name, ignore_errors=True)
                    (self._staging / name).replace(root / name)
                    self._staging.rmdir()
                    self._drop_older(root)
        finally:
            self._staging = None
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(root / name))

    def _drop_older(self, root: Path) -> None:
        """Keep as many checkpoints as ``save_total_limit`` says, the newest and the best one among them."""
        found = sorted(root.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        loose = [p for p in found[:-1] if str(p) != self.state.best_model_checkpoint]
        n_kept = max(self.args.save_total_limit or len(found), len(found) - len(loose))
        for older in loose[: len(found) - n_kept]:
            shutil.rmtree(older, ignore_errors=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Do nothing while a checkpoint is being written; it is uploaded once it has its name."""
