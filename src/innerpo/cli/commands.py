"""The options of each verb as a typed record; which of them a newcomer needs first; commands to copy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from innerpo.config.data import DataConfig
from innerpo.config.evaluation import EvalConfig
from innerpo.config.method import MethodConfig
from innerpo.config.model import ModelConfig
from innerpo.config.run import RunConfig


@dataclass(frozen=True)
class TrainCommand:
    """Train a method on a data set, save the adapter, and score it: train, test, oos, rnd."""

    run: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    config: Path | None = None
    """YAML file with any of these options, as sections (training: {lr: 1e-5})."""
    preset: str | None = None
    """Named YAML of the package (demo, dev, qwen3-0.6b, ...: docs/presets.md); a --config file overrides it."""
    dry_run: bool = False
    """Check everything, show lengths, steps, memory and time, and train nothing."""


@dataclass(frozen=True)
class TuneCommand:
    """Search a method's options for the best accuracy on a held-out part of the training data."""

    run: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    trials: int = 20
    """Trials in all, those of earlier commands on the folder included; the first has the values to start from."""
    timeout: float = 0.0
    """Begin no trial when all together have taken so many seconds, those of earlier commands included; 0 = any time."""
    seed: int = 0
    """Seed of the suggestions and of the prompts that are held out; the training seed is training.seed."""
    out: Path | None = None
    """Folder of the search; else tune_<name of the run> in output_dir."""
    drift_penalty: float = 0.0
    """Accuracy that a nat per token of output drift costs."""
    scorer: str = "mean_logp"
    """What ranks the two responses of a pair when a trial is measured."""
    validation: float = 0.2
    """Prompts of the train split that are held out: below 1 a share, else a number (at most eval.max_prompts)."""
    ranges: tuple[str, ...] = ()
    """What to vary besides or instead of the method's own fields: method.tau=0.3:3:log data.shuffled_labels=0:0.5."""
    prune: bool = True
    """Give a trial up at a third or two thirds of its steps where it is below the median of the others."""
    config: Path | None = None
    """YAML file with the options to start from, as sections (training: {lr: 1e-5})."""
    preset: str | None = None
    """Named YAML of the package (demo, dev, qwen3-0.6b, ...: docs/presets.md); a --config file overrides it."""


@dataclass(frozen=True)
class EvalCommand:
    """Score a run's adapter (or any peft adapter) beside its base model."""

    run: Annotated[Path, tyro.conf.Positional, arg(metavar="RUN")]
    """Folder of a run or of a peft adapter."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)


@dataclass(frozen=True)
class InspectCommand(EvalCommand):
    """Show what a run's adapter changed in each block, and write it into the run's folder with a plot."""

    prompts: int = 64
    """Test prompts measured, a seeded choice: the best response against the first worse one."""


@dataclass(frozen=True)
class ExportCommand:
    """Write a run's directions as a steering vector, for llama.cpp and repeng (gguf) or any other program.

    With --to=gguf and a folder, write its LoRA adapter for llama.cpp instead: export RUN DIR --to=gguf.
    """

    run: Annotated[Path, tyro.conf.Positional, arg(metavar="RUN")]
    """Folder of a run whose method reads states."""
    format: Literal["safetensors", "gguf"] = "safetensors"
    """File format."""
    out: Path | None = None
    """File to write; else steering.<format> in the run's folder."""
    trust_remote_code: bool = False
    """Run the code that comes with the base model, where the run's config asks for it. Read that code first."""


@dataclass(frozen=True)
class ExportAdapterCommand:
    """Write a run's LoRA adapter for another program: DIR/adapter.gguf for llama.cpp (llama-cli --lora)."""

    run: Annotated[Path, tyro.conf.Positional, arg(metavar="RUN")]
    """Folder of a run or of a plain LoRA adapter."""
    dir: Annotated[Path, tyro.conf.Positional, arg(metavar="DIR")]
    """Folder to write to."""
    to: Literal["gguf"] = "gguf"
    """Form of the adapter."""
    trust_remote_code: bool = False
    """Run the code that comes with the base model, where the run's config asks for it. Read that code first."""


@dataclass(frozen=True)
class DataCommand:
    """Show a data set: sizes, lengths, three rows, and the shifts that it is the source of."""

    name: Annotated[str, tyro.conf.Positional, arg(metavar="NAME")]
    """GENIES name, ethics:justice, embedded:NAME, owner/name or a file."""
    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True)
class DemoCommand:
    """Train DPO, residual and its control on an embedded shift, and print them beside the base."""

    output_dir: Path = Path("outputs/demo")
    """Where the three runs land; an earlier demo there is replaced."""
    seed: int = 1
    """Training seed."""


@dataclass(frozen=True)
class DoctorCommand:
    """Check a loss before training: does each term send gradient, with the right sign, and see the labels?"""

    method: MethodConfig = field(default_factory=MethodConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0
    """Seed of the small step away from the reference at which terms are checked."""


@dataclass(frozen=True)
class ExamplesCommand:
    """Print commands to copy, each of which works as written."""


FIRST: dict[type, tuple[str, ...]] = {
    TrainCommand: (
        *("data.dataset", "model.base_model"),
        *("method.alpha", "method.gamma", "method.layers", "method.transform"),
        *("training.lr", "training.epochs", "training.max_steps", "data.batch_size", "training.seed"),
        *("output_dir", "training.resume", "training.overwrite", "eval.skip", "preset", "config", "dry_run"),
    ),
    TuneCommand: (
        *("data.dataset", "model.base_model", "data.batch_size", "data.max_train_prompts", "eval.max_prompts"),
        *("training.epochs", "training.max_steps", "method.layers", "trials", "timeout", "seed", "out"),
        *("drift_penalty", "scorer", "validation", "ranges", "prune", "preset", "config"),
    ),
    EvalCommand: (
        *("run", "eval.suite", "eval.oos_dataset", "eval.sets", "eval.strengths", "eval.max_prompts"),
        *("eval.batch_size", "eval.steer", "data.genies_dir"),
    ),
    InspectCommand: ("run", "prompts", "eval.train_dataset", "eval.batch_size", "data.genies_dir"),
    DataCommand: ("name", "data.genies_dir", "data.ethics_dir", "data.on_bad_row"),
    DoctorCommand: ("data.dataset", "model.base_model", "method.layers", "method.transform", "seed"),
}
"""Options that ``--help`` shows; ``--help-all`` shows the rest. Verbs with few options always show them all.

Those of ``method`` are left out for methods that read no hidden states, where they have no effect.
"""

EXAMPLES = {
    "innerpo demo": "base, DPO, residual and its control on an embedded shift: minutes on a CPU, nothing to download",
    "innerpo data embedded:compare": "sizes, lengths and three rows of a data set",
    "innerpo doctor innerpo": "does each term of a loss teach what it should? seconds, no training",
    "innerpo train dpo --preset=dev": "a few steps, to see that all is well",
    "innerpo train dpo --preset=dev --dry-run": "what that would train on, how long, and in how much memory",
    "innerpo train dpo --data.dataset=truthful_qa": "DPO on GENIES (INNERPO_GENIES_DIR, or the Hub)",
    "innerpo train innerpo --method.transform=none --data.dataset=truthful_qa": "InnerPO on the same pairs",
    "innerpo train innerpo --method.direction=random": "control: a random direction instead of the preference's",
    "innerpo train innerpo --method.layers='range(.3,-1)' --method.gamma=1.0": "other layers, a stronger anchor",
    "innerpo train dpo --preset=dev --training.lr=1e-4": "a preset (or --config=FILE), and a flag that overrides it",
    "innerpo tune dpo --data.dataset=truthful_qa": "search its options on held-out training prompts, never on a target",
    "innerpo eval outputs/dpo_truthful_qa_seed1": "score a saved run again, beside its base model",
    "innerpo eval outputs/dpo_truthful_qa_seed1 --eval.oos_dataset=arc_easy": "the same on another shift",
    "innerpo eval outputs/innerpo-none_truthful_qa_seed1 --eval.steer=2": "and the base steered along its directions",
    "innerpo export outputs/innerpo-none_truthful_qa_seed1 --format=gguf": "a control vector for llama.cpp and repeng",
    "innerpo generate outputs/dpo_truthful_qa_seed1 --prompts=5": "texts of base and policy, side by side",
    "innerpo chat outputs/dpo_truthful_qa_seed1": "talk to base and adapter side by side",
    "innerpo merge outputs/dpo_truthful_qa_seed1 outputs/merged": "base + adapter as one model, for plain transformers",
    "innerpo push outputs/dpo_truthful_qa_seed1 owner/name --dry-run": "what a repository of the Hub would hold",
    "innerpo bridge export truthful_qa --to=lm-eval outputs/tasks": "the same pairs for lm-evaluation-harness",
    "innerpo inspect outputs/dpo_truthful_qa_seed1": "what the adapter did inside, block by block, with a plot",
}
