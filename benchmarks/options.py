"""What the two benchmarks can be asked. The docstring under a field is its help on the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from innerpo.errors import UserError

TrainSystem = Literal["innerpo-dpo", "innerpo-default", "trl", "trl-precomputed", "trl-no-checkpointing"]
ScoreSystem = Literal["innerpo", "lm-eval"]


@dataclass(frozen=True)
class Options:
    """What both benchmarks have in common."""

    model: str = "smollm2-135m"
    """smollm2-135m (the embedded model), a local folder, or llama-1b / llama-8b (random weights; speed only)."""
    dataset: str = "math_easy"
    """Any data set name of this project, or synthetic:TOKENS (random words; a prompt and one response fill TOKENS)."""
    genies_dir: Path | None = None
    """Folder with GENIES data; else INNERPO_GENIES_DIR. embedded:longer needs no data."""
    max_prompt_tokens: int = 512
    """Pairs with a longer prompt are left out, so that no system cuts anything."""
    max_response_tokens: int = 512
    """Pairs with a longer response are left out."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the base weights; the adapter is float32."""
    attention: Literal["auto", "sdpa", "eager", "flex_attention"] = "auto"
    """Attention of the model that all systems run; auto = as a run of this project chooses it."""
    threads: int = 0
    """Threads of torch in every measured process; 0 = torch's own choice (OMP_NUM_THREADS)."""
    repeats: int = 3
    """Times that every system is measured, in turn: A B C, A B C, ..."""
    cache_dir: Path | None = None
    """Where converted models are kept; else INNERPO_CACHE; else ~/.cache/innerpo."""
    save: Path | None = None
    """Write all that was measured to this json file."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UserError(f"--repeats must be at least 1, got {self.repeats}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch has it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found


@dataclass(frozen=True)
class TrainOptions(Options):
    """Time optimiser steps of this project and of TRL's DPOTrainer, on the same pairs, in turn."""

    systems: tuple[TrainSystem, ...] = ("innerpo-dpo", "innerpo-default", "trl", "trl-precomputed")
    """Measured systems. trl-no-checkpointing is trl-precomputed without TRL's default gradient checkpointing."""
    pairs: int = 0
    """Pairs trained on; 0 = those of the timed steps, each once. Else steps * batch-size must be a multiple of it."""
    batch_size: int = 8
    """Pairs per optimiser step."""
    steps: int = 8
    """Timed optimiser steps."""
    warmup: int = 3
    """Steps before them, all on the first batch-size pairs; their losses are compared between the systems."""
    lr: float = 2e-4
    """Learning rate, constant."""
    scaling: bool = False
    """Measure cost against pairs per step (multiples) and against sequence length (lengths) instead."""
    multiples: tuple[int, ...] = (1, 2, 4)
    """--scaling: batch-size is multiplied by each of these."""
    lengths: tuple[int, ...] = (128, 256, 512)
    """--scaling: tokens a row (a prompt and one response), of synthetic pairs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "steps", "warmup"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.steps * self.batch_size % self.n_pairs or self.n_pairs % self.batch_size:
            raise UserError(
                f"{self.steps} steps of {self.batch_size} pairs are no whole number of passes over {self.pairs} pairs "
                "in whole steps, so the systems would not be timed on the same pairs; leave --pairs out"
            )

    @property
    def n_pairs(self) -> int:
        """Pairs trained on."""
        return self.pairs or self.steps * self.batch_size

    @property
    def passes(self) -> int:
        """Times that the timed steps see each pair."""
        return self.steps * self.batch_size // self.n_pairs


@dataclass(frozen=True)
class ParityOptions(Options):
    """Train the same steps on every fast path and plainly in float32, and compare the losses."""

    method: str = "dpo"
    """A method of this project that pools states by their mean, e.g. dpo or innerpo."""
    paths: tuple[str, ...] = ()
    """Fast paths to compare (benchmarks/paths.py); none named = all of them. Each sets its own type and attention."""
    repeats: int = 1
    """Only 1: a training is repeatable."""
    pairs: int = 0
    """Pairs trained on, epoch after epoch; 0 = as many as the steps take."""
    batch_size: int = 4
    """Pairs per optimiser step."""
    steps: int = 20
    """Optimiser steps."""
    lr: float = 2e-4
    """Learning rate, constant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype != "float32" or self.repeats != 1:
            raise UserError("plain training is in float32, once: leave --dtype and --repeats out, and name --paths")
        if self.steps < 1 or self.batch_size < 1 or self.n_pairs % self.batch_size:
            raise UserError(
                f"--steps ({self.steps}) and --batch-size ({self.batch_size}) must be at least 1, and --pairs "
                f"({self.pairs}) a multiple of --batch-size: else the last step of an epoch would be a short one"
            )

    @property
    def n_pairs(self) -> int:
        """Pairs trained on."""
        return self.pairs or self.steps * self.batch_size


@dataclass(frozen=True)
class AdapterOptions(Options):
    """Train an adapter in float32, and see what is left of it in half precision by each way of adding it."""

    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    """The half type."""
    repeats: int = 1
    """Only 1: all of it is repeatable."""
    pairs: int = 40
    """Pairs trained on, and looked at afterwards."""
    batch_size: int = 4
    """Pairs per optimiser step."""
    steps: int = 10
    """Optimiser steps before the adapter is looked at: after few it is small, and most is lost."""
    lr: float = 2e-4
    """Learning rate, constant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.pairs, self.batch_size, self.steps) < 1 or self.repeats != 1:
            raise UserError("--pairs, --batch-size and --steps must be at least 1, and --repeats is 1")


@dataclass(frozen=True)
class TrunkOptions(Options):
    """Time training steps and scoring with a shared trunk and without, and compare the losses."""

    method: str = "dpo"
    """A method of this project."""
    layers: str = ""
    """Blocks that the method reads (method.layers); empty = the method's default."""
    adapt_layers: str = "range(15,30)"
    """Blocks with an adapter (model.adapt_layers)."""
    batch_size: int = 4
    """Pairs per optimiser step."""
    steps: int = 20
    """Optimiser steps."""
    prompts: int = 24
    """Prompts scored, each with all its responses."""
    lr: float = 2e-4
    """Learning rate, constant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.batch_size, self.steps, self.prompts) < 1:
            raise UserError("--batch-size, --steps and --prompts must be at least 1")

    @property
    def n_pairs(self) -> int:
        """Pairs trained on: each once."""
        return self.steps * self.batch_size


@dataclass(frozen=True)
class ScoreOptions(Options):
    """Time the log-probabilities of responses by this project and by lm-evaluation-harness, on the same token ids."""

    systems: tuple[ScoreSystem, ...] = ("innerpo", "lm-eval")
    """Measured systems."""
    prompts: int = 64
    """Prompts scored."""
    responses: tuple[int, ...] = (2, 4)
    """Responses a prompt: the first of its own; where the data have fewer, those of the prompts after it."""
    batch_size: int = 16
    """Responses per forward pass, in both systems."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts < 1 or self.batch_size < 1 or min(self.responses, default=0) < 2:
            raise UserError("--prompts and --batch-size must be at least 1, --responses at least 2")
