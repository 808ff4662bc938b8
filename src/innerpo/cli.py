"""The command line: verbs only. Nothing heavy is imported before the flags have been read."""

import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import arg

from innerpo.config import DataConfig, EvalConfig, ModelConfig, RunConfig, default_run
from innerpo.config_files import overlay, preset_path, read_run_config, read_yaml, without_identity
from innerpo.console import error_line, say, stdout
from innerpo.errors import MachineError, UserError
from innerpo.method_config import MethodConfig, method_names
from innerpo.registry import METHODS

C = TypeVar("C")


@dataclass(frozen=True)
class TrainCommand:
    """Train a method on a data set, save the adapter, and score it: train, test, oos, rnd."""

    run: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    config: Path | None = None
    """YAML file with any of these options, as sections (training: {lr: 1e-5})."""
    preset: str | None = None
    """Named YAML of the package's configs folder; a --config file overrides it."""


@dataclass(frozen=True)
class EvalCommand:
    """Score a run's adapter (or any peft adapter) beside its base model."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run or of a peft adapter."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)


E = TypeVar("E", bound=EvalCommand)


@dataclass(frozen=True)
class InspectCommand(EvalCommand):
    """Show what a run's adapter did inside, block by block, against its base; written beside it with a plot."""

    prompts: int = 64
    """Test prompts measured, a seeded choice: the best response against the first worse one."""


@dataclass(frozen=True)
class ExportCommand:
    """Write a run's directions as a steering vector, for llama.cpp and repeng (gguf) or any other program."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run whose method reads states."""
    format: Literal["safetensors", "gguf"] = "safetensors"
    """File format."""
    out: Path | None = None
    """File to write; else steering.<format> in the run's folder."""


@dataclass(frozen=True)
class DataCommand:
    """Show a data set: sizes, lengths, three rows; and the shifts that lead from it."""

    name: Annotated[str, tyro.conf.Positional]
    """GENIES name, ethics:justice, embedded:NAME, owner/name or a file."""
    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True)
class DemoCommand:
    """Train DPO and InnerPO on an embedded shift, and print base, DPO and InnerPO side by side."""

    output_dir: Path = Path("outputs/demo")
    """Where the two runs land; an earlier demo there is replaced."""
    seed: int = 1
    """Training seed."""


@dataclass(frozen=True)
class DoctorCommand:
    """Check a loss before training: does each term send gradient, with the right sign, seeing what it should see?"""

    method: MethodConfig = field(default_factory=MethodConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0
    """Seed of the small step that is made away from the reference before anything is measured."""


@dataclass(frozen=True)
class ExamplesCommand:
    """Print commands to copy, each of which works as written."""


EXAMPLES = {
    "innerpo demo": "base, DPO and InnerPO on an embedded shift: a few minutes on a CPU, nothing to download",
    "innerpo data embedded:compare": "sizes, lengths and three rows of a data set",
    "innerpo doctor innerpo": "does each term of a loss teach what it should? seconds, no training",
    "innerpo train dpo --preset=dev": "a few steps, to see that all is well",
    "innerpo train dpo --data.dataset=truthful_qa": "DPO on GENIES (INNERPO_GENIES_DIR, or the Hub)",
    "innerpo train innerpo --method.transform=none --data.dataset=truthful_qa": "InnerPO on the same pairs",
    "innerpo train innerpo --method.direction=random": "control: a random direction instead of the preference's",
    "innerpo train innerpo --method.layers='range(.3,-1)' --method.gamma=1.0": "other layers, a stronger anchor",
    "innerpo train dpo --config=configs/dev.yaml --training.lr=1e-4": "a YAML file, and a flag that overrides it",
    "innerpo eval outputs/dpo_truthful_qa_seed1": "score a saved run again, beside its base model",
    "innerpo eval outputs/dpo_truthful_qa_seed1 --eval.oos_dataset=arc_easy": "the same on another shift",
    "innerpo eval outputs/innerpo-none_truthful_qa_seed1 --eval.steer=2": "and the base steered along its directions",
    "innerpo export outputs/innerpo-none_truthful_qa_seed1 --format=gguf": "a control vector for llama.cpp and repeng",
    "innerpo inspect outputs/dpo_truthful_qa_seed1": "what the adapter did inside, block by block, with a plot",
}


def train(args: list[str]) -> None:
    """Train a method and score it: train dpo, train innerpo --method.transform=none (or: train innerpo-none)."""
    _known_method(args, "train", "Train")
    config, rest = default_run(args[0]), args[1:]
    name = config.method.name
    for flag, path_of in (("preset", preset_path), ("config", Path)):
        value = _peek(rest, flag)
        if value is not None:
            path = path_of(value)
            config = overlay(config, without_identity(read_yaml(path)), str(path))
    command = _parse(TrainCommand, rest, f"innerpo train {name}", TrainCommand(run=config))
    if command.run.method.name != name:
        raise UserError(f"the config is of the method {command.run.method.name!r}, the command is train {name}")
    from innerpo.run import train_and_score

    result = train_and_score(command.run)
    _show(result)


def evaluate(args: list[str]) -> None:
    """Score a saved run, or any peft adapter, beside its base model: eval outputs/dpo_math_seed1."""
    command, config = _command_on_folder(EvalCommand, args, "innerpo eval")
    from innerpo.run import evaluate as run_evaluation

    result = run_evaluation(command.run, config)
    _show(result)


def inspect(args: list[str]) -> None:
    """Show what a run's adapter did inside, block by block: inspect outputs/dpo_math_seed1."""
    command, config = _command_on_folder(InspectCommand, args, "innerpo inspect")
    from innerpo.evaluation.inspect import as_rich, inspect_run

    stdout.print(as_rich(inspect_run(command.run, config, command.prompts)))


def export(args: list[str]) -> None:
    """Write a run's directions as a steering vector: export outputs/innerpo-none_math_seed1 --format=gguf."""
    command = _parse(ExportCommand, args, "innerpo export")
    config = _config_of_folder(_existing(command.run))
    from innerpo.evaluation.export import export_run

    say(f"written to {export_run(command.run, config, command.format, command.out)}")


def data(args: list[str]) -> None:
    """Show a data set: sizes, lengths, three rows: data math."""
    command = _parse(DataCommand, args, "innerpo data")
    from innerpo.data.describe import describe, render

    stdout.print(render(command.name, describe(command.name, command.data)))


def demo(args: list[str]) -> None:
    """Train DPO and InnerPO on an embedded shift and compare them with the base: a few minutes on a CPU."""
    command = _parse(DemoCommand, args, "innerpo demo")
    from innerpo.demo import run_demo

    _show(run_demo(command.output_dir, command.seed))


def doctor(args: list[str]) -> None:
    """Check a loss before training on it: doctor innerpo, doctor innerpo --method.extra my_term 0.5."""
    _known_method(args, "doctor", "Check")
    config = default_run(args[0])
    few = replace(config.data, dataset="embedded:longer", max_train_prompts=16)
    default = DoctorCommand(config.method, few, config.model)
    command = _parse(DoctorCommand, args[1:], f"innerpo doctor {config.method.name}", default)
    from innerpo.doctor.table import consult

    consult(replace(config, method=command.method, data=command.data, model=command.model), command.seed)


def examples(args: list[str]) -> None:
    """Print commands to copy, each of which works as written."""
    _parse(ExamplesCommand, args, "innerpo examples")
    for command, meaning in EXAMPLES.items():
        stdout.print(f"# {meaning}", style="dim", markup=False, soft_wrap=True)
        stdout.print(command, markup=False, soft_wrap=True)


VERBS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "eval": evaluate,
    "data": data,
    "demo": demo,
    "doctor": doctor,
    "inspect": inspect,
    "export": export,
    "examples": examples,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0, 2 for a fault in what was asked, 3 for a fault of the machine."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if args and args[0] in VERBS:
            VERBS[args[0]](args[1:])
        else:
            choices = {verb: _nothing(function.__doc__ or "") for verb, function in VERBS.items()}
            with _usage_in_one_line():
                tyro.extras.subcommand_cli_from_dict(
                    choices,
                    prog="innerpo",
                    description="Preference optimisation on hidden states, and a measure of whether it generalises.",
                    args=args,
                )
    except UserError as error:
        error_line(str(error))
        return error.exit_code
    except Exception as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":  # torch's, unimported
            raise
        error_line("out of memory; a smaller --data.batch-size needs less")
        return MachineError.exit_code
    except KeyboardInterrupt:
        error_line("interrupted; the same command with --training.resume goes on from the last checkpoint")
        return 130
    return 0


def _known_method(args: list[str], verb: str, does: str) -> None:
    """Show the methods (--help), or refuse a word that is none of them, before the method's own flags are read."""
    if not args or args[0] not in method_names():
        choices = {name: _nothing(f"{does} {name}; its options: innerpo {verb} {name} --help") for name in METHODS}
        with _usage_in_one_line():
            tyro.extras.subcommand_cli_from_dict(
                choices, prog=f"innerpo {verb}", description=VERBS[verb].__doc__, args=args
            )


def _parse(kind: type[C], args: list[str], prog: str, default: C | None = None) -> C:
    with _usage_in_one_line():
        if default is None:
            return tyro.cli(kind, args=args, prog=prog)
        return tyro.cli(kind, args=args, prog=prog, default=default)


@contextmanager
def _usage_in_one_line() -> Iterator[None]:
    """Turn the box that the parser draws around a wrong flag into an error of one line."""
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│ ") for line in box.getvalue().splitlines()]
        said = [line for line in lines if line and line[0] not in "╭╰─"]
        raise UserError(" ".join(said) or "the flags could not be read") from None


def _peek(args: list[str], flag: str) -> str | None:
    """Return the value of a flag before the parser runs, since it sets the parser's defaults."""
    for i, word in enumerate(args):
        if word == f"--{flag}" and i + 1 < len(args):
            return args[i + 1]
        if word.startswith(f"--{flag}="):
            return word.split("=", 1)[1]
    return None


def _command_on_folder(kind: type[E], args: list[str], prog: str) -> tuple[E, RunConfig]:
    """Read the flags of a verb on a run's folder, whose own config holds the defaults."""
    folder = _existing(_parse(kind, args, prog).run)
    config = _config_of_folder(folder)
    default = kind(run=folder, eval=config.eval, data=config.data, model=config.model)
    command = _parse(kind, args, prog, default)
    foreign = read_run_config(folder) is None and (folder / "adapter_config.json").is_file()
    if foreign and command.eval.train_dataset is None:
        raise UserError(f"{folder} was not trained by innerpo, so what on is unknown; say it with --eval.train_dataset")
    model = replace(command.model, base_model=command.eval.ref_model or command.model.base_model)
    return command, replace(config, eval=command.eval, data=command.data, model=model)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the folder of a run or of a peft adapter")
    return folder


def _config_of_folder(folder: Path) -> RunConfig:
    """The config that a run was made with; for a foreign peft adapter, the defaults with the base model it names."""
    own = read_run_config(folder)
    if own is not None:
        return own
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return RunConfig()
    named = read_yaml(adapter).get("base_model_name_or_path")  # JSON is YAML
    config = default_run("dpo")
    return replace(config, model=replace(config.model, base_model=named)) if named else config


def _show(result: Any) -> None:
    from innerpo.evaluation.tables import as_rich

    tables = list((result.tables or {}).values())
    for table in tables:
        stdout.print(as_rich(table))
    for line in tables[0].lines() if tables else ():
        stdout.print(line, markup=False, soft_wrap=True)
    say(f"written to {result.folder}")


def _nothing(help_text: str) -> Callable[[], None]:
    def verb() -> None: ...

    verb.__doc__ = help_text
    return verb


def entry() -> None:
    """Exit with main's code (the installed command)."""
    # peft 0.21 asks transformers 5.23 by a name that it renamed; nothing that a person here could mend.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
