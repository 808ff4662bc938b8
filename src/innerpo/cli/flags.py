"""How words become a command's record: the parser, its errors in one line, defaults that a run's folder holds."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import tyro

from innerpo.cli.commands import EvalCommand
from innerpo.config.method import method_names
from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import read_run_config, read_yaml
from innerpo.errors import UserError
from innerpo.registry import METHODS

C = TypeVar("C")
E = TypeVar("E", bound=EvalCommand)


def parse(kind: type[C], args: list[str], prog: str, default: C | None = None) -> C:
    """Read the flags of a command; a fault among them is a UserError of one line."""
    with _usage_in_one_line():
        if default is None:
            return tyro.cli(kind, args=args, prog=prog)
        return tyro.cli(kind, args=args, prog=prog, default=default)


def peek(args: list[str], flag: str) -> str | None:
    """Return the value of a flag before the parser runs, since it sets the parser's defaults."""
    for i, word in enumerate(args):
        if word == f"--{flag}" and i + 1 < len(args):
            return args[i + 1]
        if word.startswith(f"--{flag}="):
            return word.split("=", 1)[1]
    return None


def known_method(args: list[str], prog: str, does: str, description: str | None) -> None:
    """Show the methods (--help), or refuse a word that is none of them, before the method's own flags are read."""
    if not args or args[0] not in method_names():
        show_choices(
            {name: f"{does} {name}; its options: {prog} {name} --help" for name in METHODS}, prog, description, args
        )


def show_choices(helps: dict[str, str], prog: str, description: str | None, args: list[str]) -> None:
    """Show the words that may come first, each with its help (--help), or refuse the one that does."""
    with _usage_in_one_line():
        tyro.extras.subcommand_cli_from_dict(
            {word: _nothing(text) for word, text in helps.items()}, prog=prog, description=description, args=args
        )


def command_on_folder(kind: type[E], args: list[str], prog: str) -> tuple[E, RunConfig]:
    """Read the flags of a verb on a run's folder, whose own config holds the defaults."""
    folder = existing(parse(kind, args, prog).run)
    config = config_of_folder(folder)
    default = kind(run=folder, eval=config.eval, data=config.data, model=config.model)
    command = parse(kind, args, prog, default)
    foreign = read_run_config(folder) is None and (folder / "adapter_config.json").is_file()
    if foreign and command.eval.train_dataset is None:
        raise UserError(f"{folder} was not trained by innerpo, so what on is unknown; say it with --eval.train_dataset")
    model = replace(command.model, base_model=command.eval.ref_model or command.model.base_model)
    return command, replace(config, eval=command.eval, data=command.data, model=model)


def existing(folder: Path) -> Path:
    """Return the folder; a UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the folder of a run or of a peft adapter")
    return folder


def config_of_folder(folder: Path) -> RunConfig:
    """Return a run's own config; for a foreign peft adapter, the defaults with the base model that it names."""
    own = read_run_config(folder)
    if own is not None:
        return own
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return RunConfig()
    named = read_yaml(adapter).get("base_model_name_or_path")  # JSON is YAML
    config = default_run("dpo")
    return replace(config, model=replace(config.model, base_model=named)) if named else config


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


def _nothing(help_text: str) -> Callable[[], None]:
    def verb() -> None: ...

    verb.__doc__ = help_text
    return verb
