"""What a run is: typed, frozen records. The docstring under a field is its help on the command line."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from innerpo.config.method import MethodConfig, check_finite, default_method
from innerpo.errors import UserError
from innerpo.registry import METHODS


@dataclass(frozen=True)
class ModelConfig:
    """The base model and its adapter."""

    base_model: str = "smollm2-135m"
    """A Hub name, a local folder, or smollm2-135m (the embedded SmolLM2-135M-Instruct)."""
    revision: str | None = None
    """Hub revision of the base model."""
    lora_r: int = 16
    """Rank of the LoRA adapter; 0 = full fine-tuning."""
    lora_alpha: float = 32.0
    """LoRA scale: updates are multiplied by lora_alpha / lora_r."""
    lora_dropout: float = 0.0
    """Dropout on the adapter's input. All other dropout is switched off."""
    target_modules: str = "all-linear"
    """Modules that get an adapter: all-linear, or names separated by commas (q_proj,v_proj)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the base weights; auto = bfloat16 where the hardware multiplies it natively, else float32."""
    attention: Literal["auto", "sdpa", "eager", "flex_attention"] = "auto"
    """Attention implementation; auto = by hardware and type, said at start. flex_attention (CUDA) packs rows."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile decoder blocks for training (torch.compile); auto = where the run is long enough to win the time back."""
    threads: int = 0
    """CPU threads; 0 = torch's choice, but no more than the container may use."""
    load_in_4bit: bool = False
    """Load the base weights in 4 bits (needs bitsandbytes and a CUDA device)."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you have read that code."""

    def __post_init__(self) -> None:
        check_finite(self, "model")
        if self.lora_r < 0:
            raise UserError(f"model.lora_r must be 0 (full fine-tuning) or more, got {self.lora_r}")
        if self.threads < 0:
            raise UserError(f"model.threads must not be negative, got {self.threads}")


@dataclass(frozen=True)
class DataConfig:
    """Which pairs, and how they become tokens and batches."""

    dataset: str = "math"
    """GENIES name (math), ethics:justice, embedded:NAME, a Hub data set (owner/name), or a local file."""
    genies_dir: Path | None = None
    """Folder with GENIES data; else INNERPO_GENIES_DIR; else the Hub's wassname/genies_preferences."""
    ethics_dir: Path | None = None
    """Folder with ETHICS CSVs; else INNERPO_ETHICS_DIR; else `ethics` beside the GENIES folder; else the Hub."""
    batch_size: int = 8
    """Pairs per step on each device (before accumulation)."""
    max_prompt_tokens: int = 512
    """Longer prompts are cut on the left."""
    max_response_tokens: int = 512
    """Longer responses are cut on the right and keep no EOS; never to nothing."""
    negatives: Literal["one", "all"] = "one"
    """Rejected responses per prompt in training: one (seeded choice) or all. Scoring always uses all."""
    max_train_prompts: int = 0
    """Train on this many randomly chosen prompts; 0 = all."""
    shuffled_labels: float = 0.0
    """Swap chosen and rejected in training with this probability (control: 0.5 leaves no signal)."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be used: stop, or leave it out, count it and say so."""
    layout: Literal["auto", "one_row", "packed", "concatenated"] = "auto"
    """A row a prompt (its responses behind it), one row for all, or a row a response; auto = compare one batch."""
    micro_batch_tokens: int = 0
    """Most padded tokens run forward and back at once; larger batches take several passes, same gradients. 0 = auto."""
    seed: int = 0
    """Seed of the choice of negatives and prompts. Not the training seed: seeds share their pairs and cache."""
    token_cache_gb: float = 4.0
    """Largest file of reference token states (drift reads it); above, the reference is run at each step."""
    cache_dir: Path | None = None
    """Where reference outputs and converted models are kept; else INNERPO_CACHE; else ~/.cache/innerpo."""

    def __post_init__(self) -> None:
        for name in ("seed", "max_train_prompts", "micro_batch_tokens"):
            if getattr(self, name) < 0:
                raise UserError(f"data.{name} must not be negative, got {getattr(self, name)}")
        for name in ("batch_size", "max_prompt_tokens", "max_response_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.shuffled_labels <= 1.0:
            raise UserError(f"data.shuffled_labels must lie between 0 and 1, got {self.shuffled_labels}")


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
    """Fraction of the steps in which the learning rate rises linearly."""
    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    """How the learning rate falls after warm-up."""
    optim: str = "adamw_torch_fused"
    """Optimiser, by its transformers name."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    seed: int = 1
    """Seed of the adapter's initial weights, the order of pairs and random directions."""
    resume: bool = False
    """Go on from the run's last checkpoint, if it has one."""
    overwrite: bool = False
    """Delete what the run's folder holds and start again."""
    save_steps: int = 50
    """Steps between checkpoints; 0 = none."""
    log_steps: int = 5
    """Steps between log lines."""
    grad_share_steps: int = 25
    """Steps between measurements of each term's share of the gradient norm; 0 = never."""
    report_to: tuple[str, ...] = ()
    """Trackers besides the run's own metrics.jsonl: tensorboard, wandb, trackio."""
    fsdp: str = ""
    """FSDP options as transformers takes them, e.g. "full_shard auto_wrap"; else as accelerate is configured."""
    deepspeed: str | None = None
    """DeepSpeed configuration file."""

    def __post_init__(self) -> None:
        check_finite(self, "training")
        for name in ("lr", "seed", "max_steps", "save_steps", "warmup", "weight_decay", "grad_share_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"training.{name} must not be negative, got {getattr(self, name)}")
        for name in ("gradient_accumulation", "log_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        if self.epochs <= 0 and self.max_steps <= 0:
            raise UserError(f"training.epochs must be above 0, got {self.epochs} (and max_steps is 0)")


@dataclass(frozen=True)
class EvalConfig:
    """What is scored: the headline columns train, test, oos and rnd."""

    train_dataset: str | None = None
    """Data set of the train and test columns; else the one the run was trained on."""
    oos_dataset: str | None = None
    """Out-of-distribution column; else the training set's first listed shift (innerpo data NAME shows it)."""
    rnd_dataset: str | None = None
    """Unrelated control column; else ethics:justice (embedded:control for embedded data)."""
    ref_model: str | None = None
    """Base model to score beside the adapter; else the one the adapter names."""
    max_prompts: int = 250
    """Prompts scored per column, a seeded choice; 0 = all."""
    batch_size: int = 16
    """Prompts per forward pass, each with all its responses."""
    bootstrap: int = 2000
    """Bootstrap resamples (of prompts) behind each 95 % interval."""
    format: Literal["parquet", "jsonl"] = "parquet"
    """File format of the score rows."""
    steer: float = 0.0
    """Also score the base steered along the run's directions by this many standard deviations, in a row of its own."""
    skip: bool = False
    """Train only: do not score afterwards."""

    def __post_init__(self) -> None:
        check_finite(self, "eval")
        if self.max_prompts < 0:
            raise UserError(f"eval.max_prompts must not be negative, got {self.max_prompts}")
        for name in ("batch_size", "bootstrap"):
            if getattr(self, name) < 1:
                raise UserError(f"eval.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class RunConfig:
    """One training run and its scores: a pure function of this record."""

    method: MethodConfig = field(default_factory=MethodConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    output_dir: Path = Path("outputs")
    """Folder of runs; this one lands in <method>-<transform>_<dataset>_seed<seed> beneath it."""

    def __post_init__(self) -> None:
        if self.eval.steer and not (self.method.reads_states and self.method.site == "residual"):
            what = f"reads {self.method.site!r}" if self.method.reads_states else "has no directions"
            raise UserError(f"eval.steer moves the residual stream along a run's directions; {self.method.name} {what}")

    @property
    def method_label(self) -> str:
        """``innerpo-none``; ``dpo`` for a method that reads no states."""
        name = self.method.name
        method = default_method(name) if name in METHODS else MethodConfig()
        return f"{name}-{self.method.transform}" if method.reads_states else name

    @property
    def run_name(self) -> str:
        """``innerpo-none_math_seed1``."""
        path = Path(self.data.dataset)
        name = path.stem if path.suffix in (".jsonl", ".json", ".parquet", ".csv") else path.name
        dataset = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
        return f"{self.method_label}_{dataset}_seed{self.training.seed}"

    @property
    def run_dir(self) -> Path:
        """Folder in which the run lands."""
        return self.output_dir / self.run_name

    def run_id(self) -> str:
        """Hash of all that determines the result (not where it lands, nor how it is logged or resumed)."""
        plain = to_dict(self)
        plain.pop("output_dir")
        plain.pop("eval")
        if self.method.site == "residual":  # as runs were named before there was a choice
            plain["method"].pop("site")
        for key in ("resume", "overwrite", "report_to", "log_steps", "save_steps"):
            plain["training"].pop(key)
        for key in ("compile", "threads"):  # how it is computed, not what
            plain["model"].pop(key)
        for key in ("genies_dir", "ethics_dir", "cache_dir", "micro_batch_tokens"):
            plain["data"].pop(key)
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def default_run(method: str) -> RunConfig:
    """Return the defaults of a method by its name (``default_method`` says which there are)."""
    found = default_method(method)
    return RunConfig(method=found, data=DataConfig(**METHODS[found.name].get("data", {})))


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain JSON types, whole, so that a saved run does not depend on later defaults."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        return list(value) if isinstance(value, tuple) else value

    result: dict[str, Any] = plain(config)
    return result
