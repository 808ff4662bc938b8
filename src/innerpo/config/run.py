"""The configuration of a run as typed, frozen records. The text below a field is its help on the command line."""

import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from innerpo.config.identity import BOTH, NOTHING, RUN, SCORES, run_id, settings
from innerpo.config.method import MethodConfig, check_finite, default_method
from innerpo.errors import FIELDS, UserError
from innerpo.registry import METHODS

MAX_SEED = 2**32 - 1
"""Largest seed that numpy takes, which transformers seeds along with torch."""


@dataclass(frozen=True)
class ModelConfig:
    """The base model and its adapter."""

    base_model: str = field(default="smollm2-135m", metadata=BOTH)
    """A Hub name, a local folder, or smollm2-135m (the embedded SmolLM2-135M-Instruct)."""
    revision: str | None = field(default=None, metadata=BOTH)
    """Hub revision of the base model."""
    lora_r: int = 16
    """Rank of the LoRA adapter; 0 = full fine-tuning."""
    lora_alpha: float = 32.0
    """LoRA scale: updates are multiplied by lora_alpha / lora_r."""
    lora_dropout: float = 0.0
    """Dropout on the adapter's input, drawn for each micro-batch, so that their size matters; other dropout is off."""
    target_modules: str = "all-linear"
    """Modules that get an adapter: all-linear, or names separated by commas (q_proj,v_proj)."""
    adapt_layers: str = "all"
    """Blocks with an adapter: all, or as method.layers (range(15,30)); what lies before the first is run only once."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(default="auto", metadata=BOTH)
    """Type of the base weights; auto = bfloat16 where the hardware multiplies it natively, else float32."""
    attention: Literal["auto", "sdpa", "eager", "flex_attention"] = field(default="auto", metadata=NOTHING)
    """Attention implementation; auto = by hardware and type (logged). flex_attention (CUDA) packs rows."""
    compile: Literal["auto", "on", "off"] = field(default="auto", metadata=NOTHING)
    """Compile decoder blocks for training (torch.compile); auto = where the run is long enough to be worth it."""
    threads: int = field(default=0, metadata=NOTHING)
    """CPU threads; 0 = torch's choice, but no more than the container may use."""
    load_in_4bit: bool = field(default=False, metadata=BOTH)
    """Load the base weights in 4 bits (needs bitsandbytes and a CUDA device)."""
    trust_remote_code: bool = field(default=False, metadata=BOTH)
    """Run the code that comes with the model. Leave it off unless you have read that code."""

    def __post_init__(self) -> None:
        check_finite(self, "model")
        if self.lora_r < 0:
            raise UserError(f"model.lora_r must be 0 (full fine-tuning) or more, got {self.lora_r}")
        if not 0.0 <= self.lora_dropout < 1.0:
            raise UserError(f"model.lora_dropout must be at least 0 and below 1, got {self.lora_dropout}")
        if self.lora_r == 0 and self.dtype == "float16":
            raise UserError(
                "model.lora_r=0 trains every weight, and float16 cannot hold their updates and optimiser states; use "
                "model.dtype=bfloat16 or float32"
            )
        if self.lora_r == 0 and self.adapt_layers != "all":
            raise UserError(
                f"model.adapt_layers={self.adapt_layers!r} chooses blocks for an adapter; model.lora_r=0 has none and "
                "trains every weight"
            )
        if self.threads < 0:
            raise UserError(f"model.threads must not be negative, got {self.threads}")


@dataclass(frozen=True)
class DataConfig:
    """Which pairs, and how they become tokens and batches."""

    dataset: str = field(default="math", metadata=BOTH)
    """GENIES name (math), ethics:justice, embedded:NAME, a Hub data set (owner/name), or a local file."""
    genies_dir: Path | None = field(default=None, metadata=NOTHING)
    """Folder with GENIES data; else INNERPO_GENIES_DIR; else the Hub's wassname/genies_preferences."""
    ethics_dir: Path | None = field(default=None, metadata=NOTHING)
    """Folder with ETHICS CSVs; else INNERPO_ETHICS_DIR; else `ethics` beside the GENIES folder; else the Hub."""
    batch_size: int = 8
    """Pairs per step on each device (before accumulation)."""
    max_prompt_tokens: int = field(default=512, metadata=BOTH)
    """Longer prompts are cut on the left."""
    max_response_tokens: int = field(default=512, metadata=BOTH)
    """Longer responses are cut on the right and then have no EOS; at least one token is kept."""
    negatives: Literal["one", "all"] = "one"
    """Rejected responses per prompt in training: one (seeded choice) or all. Scoring always uses all."""
    max_train_prompts: int = field(default=0, metadata=BOTH)
    """Train on this many randomly chosen prompts; 0 = all."""
    shuffled_labels: float = 0.0
    """Swap chosen and rejected in training with this probability (control: 0.5 leaves no signal)."""
    shuffled_prompts: bool = False
    """Train on the same pairs behind other pairs' prompts, a seeded choice (control: only the responses speak)."""
    on_bad_row: Literal["error", "skip"] = field(default="error", metadata=BOTH)
    """A row that cannot be used: stop, or leave it out and log how many were."""
    layout: Literal["auto", "one_row", "packed", "concatenated"] = field(default="auto", metadata=NOTHING)
    """One row per prompt (with its responses), one row for all, or one row per response; auto = checks one batch."""
    micro_batch_tokens: int = field(default=0, metadata=NOTHING)
    """Most padded tokens in a micro-batch; a larger batch is split into several, with the same gradients. 0 = auto."""
    seed: int = field(default=0, metadata=BOTH)
    """Seed of the choice of negatives and prompts. Not the training seed: seeds share their pairs and cache."""
    token_cache_gb: float = field(default=4.0, metadata=NOTHING)
    """Largest file of reference token states (for drift); above it the reference is computed at every step."""
    trunk_cache_gb: float = field(default=8.0, metadata=NOTHING)
    """Most disk for the states that enter the first adapted block (model.adapt_layers); 0 = keep none."""
    cache_dir: Path | None = field(default=None, metadata=NOTHING)
    """Where reference outputs and converted models are kept; else INNERPO_CACHE; else ~/.cache/innerpo."""

    def __post_init__(self) -> None:
        for name in ("seed", "max_train_prompts", "micro_batch_tokens", "trunk_cache_gb"):
            if not getattr(self, name) >= 0:
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


@dataclass(frozen=True)
class EvalConfig:
    """What is scored: the evaluation sets, at which strengths of the adapter, and how."""

    suite: str = "headline"
    """Evaluation sets beside train and test: headline (oos, rnd), genies, genies-all, embedded, or a TOML file."""
    sets: tuple[str, ...] = ()
    """Score only these sets of the suite (train, test, oos, ...), and further data sets by their names; () = all."""
    strengths: tuple[float, ...] = field(default=(1.0,), metadata=NOTHING)
    """Factors on the adapter's update, each scored: 0 is the base, 1 the adapter as trained."""
    strength_sets: tuple[str, ...] = field(default=(), metadata=NOTHING)
    """Sets scored at every strength (test, oos); the others are then scored at 1 alone, which saves time. () = all."""
    negatives: Literal["all", "one"] = "all"
    """Worse responses scored per prompt: all, or one (the same for all models; half the work on sets of four)."""
    train_dataset: str | None = None
    """Data set of the sets train and test; else the one the run was trained on."""
    oos_dataset: str | None = None
    """Out-of-distribution set; else the first shift listed for the training set (the verb data shows them)."""
    rnd_dataset: str | None = None
    """Unrelated control set; else ethics:justice (embedded:control for embedded data)."""
    ref_model: str | None = None
    """Another base model to score on the same sets, in a row of its own; the adapter stays on its own base."""
    max_prompts: int = 250
    """Prompts scored per set, a fixed random choice; 0 = all."""
    batch_size: int = field(default=16, metadata=NOTHING)
    """Prompts per forward pass, each with all its responses."""
    format: Literal["parquet", "jsonl"] = field(default="parquet", metadata=NOTHING)
    """File format of the score rows."""
    steer: float = 0.0
    """Also score the base steered along the run's directions by this many standard deviations, in a row of its own."""
    capability: str = field(default="", metadata=NOTHING)
    """Method (dpo, say) to train on each target itself, once: the target-tuned capability that elicitation needs."""
    skip: bool = field(default=False, metadata=NOTHING)
    """Train only: do not score afterwards."""

    def __post_init__(self) -> None:
        check_finite(self, "eval")
        if self.capability:
            default_method(self.capability)
        if not self.strengths:
            raise UserError("eval.strengths must be at least one number; 1 is the adapter as trained")
        if self.max_prompts < 0:
            raise UserError(f"eval.max_prompts must not be negative, got {self.max_prompts}")
        if self.batch_size < 1:
            raise UserError(f"eval.batch_size must be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class RunConfig:
    """One training run and its scores, which depend on nothing but this record and the data.

    Its sections are ``method``, ``model``, ``data``, ``training`` and ``eval``.
    """

    method: MethodConfig = field(default_factory=MethodConfig, metadata=RUN)
    model: ModelConfig = field(default_factory=ModelConfig, metadata=RUN)
    data: DataConfig = field(default_factory=DataConfig, metadata=RUN)
    training: TrainingConfig = field(default_factory=TrainingConfig, metadata=RUN)
    eval: EvalConfig = field(default_factory=EvalConfig, metadata=SCORES)
    output_dir: Path = field(default=Path("outputs"), metadata=NOTHING)
    """Folder of runs; this one lands in <method>-<transform>_<dataset>_seed<seed> beneath it (+<id> off defaults)."""

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
        """``innerpo-none_math_seed1`` with the method's defaults, else ``innerpo-none_math_seed1+3fa9c1d2``.

        Behind the plus stands the beginning of the run's id. A data set whose name is longer than what the plain name
        shows of it (a file, ``owner/name``) has it always, so that no two runs that differ share a folder.
        """
        dataset = _short(self.data.dataset)
        plain = f"{self.method_label}_{dataset}_seed{self.training.seed}"
        whole = dataset == self.data.dataset.replace(":", "-")
        return plain if whole and run_id(self) == self._default_id() else f"{plain}+{run_id(self)[:8]}"

    @property
    def run_dir(self) -> Path:
        """Folder in which the run lands."""
        return self.output_dir / self.run_name

    def _default_id(self) -> str:
        """Id of the run of this method, data set and seed with every other field at the method's default."""
        if self.method.name not in METHODS:
            return ""
        default = default_run(self.method_label)
        data, training = (
            replace(default.data, dataset=self.data.dataset),
            replace(default.training, seed=self.training.seed),
        )
        return run_id(replace(default, data=data, training=training))


def _short(dataset: str) -> str:
    """Return a data set's name as a part of a folder's name: without its folders or owner and its suffix."""
    path = Path(dataset)
    name = path.stem if path.suffix in (".jsonl", ".json", ".parquet", ".csv") else path.name
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


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


FIELDS.update(setting.name for setting in settings(RunConfig()))
