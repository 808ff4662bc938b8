"""The section ``training`` of a run: optimisation, checkpoints and logs."""

from dataclasses import dataclass, field
from typing import Literal

from innerpo.config.checks import check_finite
from innerpo.config.identity import NOTHING
from innerpo.errors import UserError

MAX_SEED = 2**32 - 1
"""Largest seed that numpy takes, which transformers seeds along with torch."""


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, checkpoints and logs (transformers' Trainer beneath)."""

    lr: float = 2e-4
    """Peak learning rate."""
    epochs: float = 1.0
    """Passes over the training pairs."""
    max_steps: int = 0
    """Stop after this many optimiser steps; 0 = by epochs."""
    gradient_accumulation: int = 1
    """Batches per optimiser step."""
    warmup: float = 0.1
    """Linear rise of the learning rate at the start: below 1 a fraction of the steps, else a number of steps."""
    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    """Learning rate after warm-up: falling to 0 (linear, cosine) or constant."""
    optim: str = "adamw_torch_fused"
    """Optimiser, by its transformers name."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    gradient_checkpointing: bool = field(default=False, metadata=NOTHING)
    """Recompute activations in the backward pass: less memory, about a third more time."""
    seed: int = 1
    """Seed of the adapter's initial weights, the order of pairs and random directions."""
    resume: bool = field(default=False, metadata=NOTHING)
    """Continue from the run's last checkpoint, if it has one."""
    overwrite: bool = field(default=False, metadata=NOTHING)
    """Delete what the run's folder holds and start again."""
    save_steps: int = field(default=50, metadata=NOTHING)
    """Steps between checkpoints; 0 = none."""
    log_steps: int = field(default=5, metadata=NOTHING)
    """Steps between log lines."""
    grad_share_steps: int = field(default=25, metadata=NOTHING)
    """Steps between measurements of each term's share of the gradient norm; 0 = never."""
    report_to: tuple[str, ...] = field(default=(), metadata=NOTHING)
    """Trackers besides the run's own metrics.jsonl: tensorboard, wandb, mlflow, trackio."""
    report_group: str = field(default="", metadata=NOTHING)
    """Group of the run in its trackers: the group of wandb and trackio, the experiment of mlflow."""
    fsdp: str = field(default="", metadata=NOTHING)
    """FSDP options as transformers takes them, e.g. "full_shard auto_wrap"; else as accelerate is configured."""
    deepspeed: str | None = None
    """DeepSpeed configuration file."""
    tuned: dict[str, float] = field(default_factory=dict, metadata=NOTHING)
    """Budget of the search that chose these options, for tables: trials, seconds, prompts (innerpo.tune writes it)."""

    def __post_init__(self) -> None:
        check_finite(self, "training")
        for name in ("lr", "seed", "max_steps", "save_steps", "warmup", "weight_decay", "grad_share_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"training.{name} must not be negative, got {getattr(self, name)}")
        if self.seed > MAX_SEED:
            raise UserError(f"training.seed must be at most {MAX_SEED}, got {self.seed}")
        for name in ("gradient_accumulation", "log_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        if self.warmup > 1 and not self.warmup.is_integer():
            raise UserError(
                f"training.warmup must be a fraction of the steps (below 1) or a whole number, got {self.warmup:g}"
            )
        if self.epochs <= 0 and self.max_steps <= 0:
            raise UserError(f"training.epochs must be above 0, got {self.epochs} (and max_steps is 0)")
