"""What a run is: typed, frozen records. The docstring under a field is its help on the command line."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from innerpo.errors import UserError, near_matches
from innerpo.registry import GRADIENTS, METHODS, TERMS, TRANSFORMS

# A name of a table that others may add to: no Literal, but the choices are shown and checked.
TransformName = Annotated[str, arg(metavar="{" + ",".join(TRANSFORMS) + "}")]
GradientName = Annotated[str, arg(metavar="{" + ",".join(["none", *GRADIENTS]) + "}")]


@dataclass(frozen=True)
class TransformConfig:
    """Options of the transform named by ``method.transform``; each says which transforms read it (docs/methods.md)."""

    rank: float = 0.25
    """Rows of ether, ortho, hra, svd and random: a fraction of the hidden size (0 < rank < 1) or a whole number."""
    supr_mode: Literal["null", "suppressed"] = "null"
    """supr: drop what the unembedding reads most (null), or keep what blocks push down in it (suppressed)."""
    supr_k: float = 0.25
    """supr: right-singular directions dropped (null) or kept (suppressed): a fraction or a whole number, as rank."""
    svd_end: Literal["top", "bottom"] = "top"
    """svd: the directions in which the pairs' differences are largest, or smallest."""
    reflections: int = 8
    """ether, hra: Householder reflections multiplied together (those of ether are block-diagonal)."""
    ether_blocks: int = 4
    """ether: blocks on each reflection's diagonal; must divide the hidden size."""
    probe_steps: int = 100
    """ether, ortho, hra: most steps of the probe that learns the rows; it stops early on held-back pairs."""
    probe_lr: float = 0.02
    """ether, ortho, hra: step size of that probe, about radians of rotation per step."""

    def __post_init__(self) -> None:
        _finite(self, "method.subspace")
        for name in ("rank", "supr_k"):
            value = getattr(self, name)
            if value <= 0 or (value >= 1 and not float(value).is_integer()):
                raise UserError(
                    f"method.subspace.{name} must be a fraction of the hidden size (0 < {name} < 1) or a whole number "
                    f"of directions, got {value:g}"
                )
        for name in ("reflections", "ether_blocks"):
            if getattr(self, name) < 1:
                raise UserError(f"method.subspace.{name} must be at least 1, got {getattr(self, name)}")
        if self.probe_steps < 0:
            raise UserError(f"method.subspace.probe_steps must not be negative, got {self.probe_steps}")
        if self.probe_lr <= 0:
            raise UserError(f"method.subspace.probe_lr must be above 0, got {self.probe_lr:g}")


@dataclass(frozen=True)
class MethodConfig:
    """How preferences are taught. ``innerpo`` = output + alpha * inner + gamma * drift (docs/methods.md)."""

    name: str = "innerpo"
    """Name of the method (set by the subcommand)."""
    transform: TransformName = "none"
    """Linear map with orthonormal rows, applied to pooled states before directions and margins."""
    subspace: TransformConfig = field(default_factory=TransformConfig)
    """Options of the transform."""
    layers: str = "0.4,0.6,0.8"
    """Decoder blocks read: indices (3), negative (-2,-1), fractions (0.5), ranges (range(.3,-1), range(3,10,2))."""
    site: str = "residual"
    """Read: residual, attn_out, mlp_out, o_proj_in, down_proj_in, a module's name (NAME_in: its input), re:REGEX."""
    pool: Literal["mean", "last", "first_divergence"] = "mean"
    """Completion tokens averaged: all, the last (EOS), or those from the first in which the responses differ."""
    direction: Literal["shared", "pair", "mix", "lda", "random"] = "shared"
    """Preference direction: mean over training pairs, the pair's own, a mix, whitened mean, or a seeded random one."""
    mix: float = 0.5
    """Weight of the pair's own direction in direction=mix (0 = shared, 1 = pair)."""
    lda_ridge: float = 0.1
    """Ridge of direction=lda, as a fraction of the differences' mean variance per dimension."""
    remove: tuple[Literal["length", "logprob"], ...] = ()
    """Regressed out of shared, mix and lda directions: difference in log token count, in mean log-probability."""
    layer_weights: Literal["accuracy", "uniform"] = "accuracy"
    """Layers weighted by the leave-one-out accuracy of their direction above chance, or all alike."""
    output: Literal["dpo", "ipo", "simpo", "none"] = "dpo"
    """Loss on output log-probabilities."""
    beta: float = 0.1
    """Logits per nat of DPO's margin or (simpo) per nat a token; in ipo the margin sought is 1 / (2 beta)."""
    simpo_gamma: float = 1.0
    """SimPO's target margin, in logits."""
    inner: Literal["hinge", "logistic", "linear"] = "hinge"
    """Form of the inner term on the margin m: relu(tau - m)^2, softplus(-beta_h m), or -min(m, tau)."""
    alpha: float = 0.3
    """Weight of the inner term."""
    tau: float = 1.0
    """Margin (standard deviations of the reference's own) at which hinge and linear stop pulling."""
    beta_h: float = 1.0
    """Slope of the logistic inner term."""
    gamma: float = 0.1
    """Weight of the drift term: movement of states orthogonal to the preference direction."""
    angle: float = 0.0
    """Weight of 1 - cos(policy difference, direction)."""
    separation: float = 0.0
    """Weight of |policy difference| / |reference difference| - 1, which sees no label (a control)."""
    coherence: float = 0.0
    """Weight of the rise of the chosen response's loss above the reference, nats per token."""
    sft: float = 0.0
    """Weight of the chosen response's loss, nats per token."""
    reroute: float = 0.0
    """Weight of pulling the rejected response's state to where the reference has the chosen one's."""
    retain: float = 0.0
    """Weight of holding the chosen response's state where the reference has it."""
    gradient: GradientName = "none"
    """Edit of gradients: projected on preference directions after backward (projgrad) or on the way (projbp)."""
    kappa: float = 0.1
    """What is kept, in projgrad and projbp, of the gradient across the direction (1 = no edit)."""
    frozen: bool = False
    """Train nothing: the policy is the base model, whose frozen direction scores (probe)."""
    extra: dict[str, float] = field(default_factory=dict)
    """Weights of terms added from outside the package: name weight ..."""

    def __post_init__(self) -> None:
        _finite(self, "method")
        if self.transform not in TRANSFORMS:
            raise UserError(f"unknown transform {self.transform!r}{near_matches(self.transform, TRANSFORMS)}")
        if self.transform == "supr" and self.site != "residual":
            raise UserError(f"supr asks what the unembedding reads of the residual stream, not of {self.site!r}")
        on_states = {"inner", "drift", "angle", "separation", "reroute", "retain"} & set(self.weights())
        if self.name == "dpo" and on_states:
            raise UserError(f"dpo has no terms on hidden states, got {', '.join(sorted(on_states))}; use innerpo")
        if self.gradient != "none" and self.gradient not in GRADIENTS:
            raise UserError(f"unknown method.gradient {self.gradient!r}{near_matches(self.gradient, GRADIENTS)}")
        if self.gradient != "none" and self.direction not in ("shared", "random"):
            raise UserError(f"{self.gradient} knows direction shared and random, not {self.direction}")
        if self.remove and (self.direction in ("pair", "random") or self.gradient != "none"):
            what = self.gradient if self.gradient != "none" else f"direction {self.direction}"
            raise UserError(f"method.remove changes shared, mix and lda directions of states, not {what}")
        if self.frozen and not self.reads_states:
            raise UserError("method.frozen scores along directions of states; give alpha a weight (see probe)")
        if self.lda_ridge <= 0.0:
            raise UserError(f"method.lda_ridge must be above 0, got {self.lda_ridge}")
        if self.output == "ipo" and self.beta <= 0.0:
            raise UserError(f"method.beta must be above 0 with output=ipo, got {self.beta}")

    def weights(self) -> dict[str, float]:
        """Return the weight of every term that is switched on, in a fixed order."""
        named = {
            "output": 0.0 if self.output == "none" else 1.0,
            "inner": self.alpha,
            "drift": self.gamma,
            "angle": self.angle,
            "separation": self.separation,
            "coherence": self.coherence,
            "sft": self.sft,
            "reroute": self.reroute,
            "retain": self.retain,
        }
        unknown = set(self.extra) - set(TERMS)
        if unknown:
            raise UserError(f"method.extra names unknown terms {sorted(unknown)}; known: {', '.join(TERMS)}")
        return {k: v for k, v in (named | self.extra).items() if v != 0.0}

    @property
    def reads_states(self) -> bool:
        """Whether any term that is switched on may look at hidden states."""
        return bool(set(self.weights()) - {"output", "coherence", "sft"})


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
        _finite(self, "model")
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
    pass_tokens: int = 0
    """Most padded tokens run forward and back at once; larger batches take several passes, same gradients. 0 = auto."""
    seed: int = 0
    """Seed of the choice of negatives and prompts. Not the training seed: seeds share their pairs and cache."""
    token_cache_gb: float = 4.0
    """Largest file of reference token states (drift reads it); above, the reference is run at each step."""
    cache_dir: Path | None = None
    """Where reference outputs and converted models are kept; else INNERPO_CACHE; else ~/.cache/innerpo."""

    def __post_init__(self) -> None:
        for name in ("seed", "max_train_prompts", "pass_tokens"):
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
        _finite(self, "training")
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
        _finite(self, "eval")
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
        method = default_run(name).method if name in METHODS else MethodConfig()
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
        for key in ("genies_dir", "ethics_dir", "cache_dir", "pass_tokens"):
            plain["data"].pop(key)
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def default_run(method: str) -> RunConfig:
    """Return the defaults of a method of the table, or of NAME-TRANSFORM: that method with that transform."""
    if method not in METHODS:
        for transform in TRANSFORMS:
            run = default_run(name) if (name := method.removesuffix(f"-{transform}")) in METHODS else RunConfig()
            if name in METHODS and run.method.reads_states:
                return replace(run, method=replace(run.method, transform=transform))
        raise UserError(f"unknown method {method!r}{near_matches(method, method_names())}")
    values = dict(METHODS[method])
    data = DataConfig(**values.pop("data", {}))
    return RunConfig(method=MethodConfig(name=method, **values), data=data)


def method_names() -> list[str]:
    """Return every name that ``default_run`` knows: METHODS, then NAME-TRANSFORM for methods that read states."""
    reading = [name for name in METHODS if default_run(name).method.reads_states]
    return [*METHODS, *(f"{name}-{transform}" for name in reading for transform in TRANSFORMS)]


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


def _finite(record: Any, prefix: str) -> None:
    """Refuse nan and inf in any number of a record, naming the field."""
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        values = value.values() if isinstance(value, dict) else [value]
        for v in values:
            if isinstance(v, float) and not math.isfinite(v):
                raise UserError(f"{prefix}.{f.name} must be a finite number, got {v}")
