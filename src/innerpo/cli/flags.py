"""How words become a command's record: one sentence for a wrong word, help, defaults that a run's folder holds."""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from innerpo.cli import help as help_pages
from innerpo.cli.commands import EvalCommand
from innerpo.cli.options import check_words, unknown
from innerpo.config.method import method_names
from innerpo.config.run import RunConfig, default_run
from innerpo.config.yaml import check_training_set, overlay, preset_path, read_yaml, trusted_config, without_identity
from innerpo.errors import UserError
from innerpo.files import existing_folder
from innerpo.registry import METHODS

C = TypeVar("C")
E = TypeVar("E", bound=EvalCommand)


def parse(record: type[C], words: Sequence[str], prog: str, default: C | None = None, about: str = "") -> C:
    """Read the options of a command. A fault among the words is a UserError of one sentence; help leaves the program.

    ``about`` stands at the top of the help in place of the record's docstring.
    """
    if help_pages.wanted(words):
        help_pages.show(record, words, prog, default, about)
    checked = check_words(record, words, prog)
    with _faults_in_one_line():
        if default is None:
            return tyro.cli(record, args=checked, prog=prog, use_underscores=True)
        return tyro.cli(record, args=checked, prog=prog, default=default, use_underscores=True)


def peek(words: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag before the parser runs, since it sets the parser's defaults."""
    for i, word in enumerate(words):
        if word == f"--{flag}" and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"--{flag}="):
            return word.split("=", 1)[1]
    return None


def with_files(config: RunConfig, words: Sequence[str], method: str = "") -> RunConfig:
    """Return a config with what the preset and then the config file say that the words name.

    ``method``: the word by which it was asked for; the transform of NAME-TRANSFORM comes before what a file says.
    """
    for flag, path_of in (("preset", preset_path), ("config", Path)):
        value = peek(words, flag)
        if value is not None:
            path = path_of(value)
            config = overlay(config, without_identity(read_yaml(path)), str(path))
    if method and method not in METHODS:
        config = replace(config, method=replace(config.method, transform=default_run(method).method.transform))
    return config


def read_method(words: Sequence[str], prog: str, about: str | None) -> str:
    """Return the method that the words begin with. Shows them all on request; UserError for a word that is none."""
    if words and words[0] in method_names():
        return words[0]
    if help_pages.wanted(words):
        more = "NAME-TRANSFORM is a method too, for each that reads hidden states: innerpo-supr, say."
        show_choices({name: about_method(name) for name in METHODS}, prog, f"{about}\n\n{more}")
    if words and not words[0].startswith("-"):
        raise unknown("method", words[0], method_names(), f"{prog} --help lists them")
    raise UserError(f"{prog} needs a method as its first word: {', '.join(METHODS)}")


def about_method(name: str) -> str:
    """Return the line that says what a method is; of NAME-TRANSFORM, that of NAME with the transform."""
    if name in METHODS:
        return str(METHODS[name].get("about", ""))
    method = default_run(name).method
    return f"{about_method(method.name)} Transform: {method.transform}."


def show_choices(helps: dict[str, str], prog: str, about: str) -> NoReturn:
    """Show the words that may come first, each with its help, and leave the program."""
    verbs = {word: _nothing(text) for word, text in helps.items()}
    tyro.extras.subcommand_cli_from_dict(verbs, prog=prog, description=about, args=["--help"])
    raise AssertionError("help leaves the program")


def own_config(record: Any, words: Sequence[str], prog: str) -> tuple[Path, RunConfig]:
    """Return the folder that words name, and its config. Code of its model runs only where the words allow it."""
    given = parse(record, words, prog)
    folder = existing_folder(given.run)
    return folder, trusted_config(folder, given.model.trust_remote_code)


def command_on_folder(record: type[E], words: Sequence[str], prog: str) -> tuple[E, RunConfig]:
    """Read the options of a verb on a run's folder, whose own config holds the defaults."""
    folder, config = own_config(record, words, prog)
    default = record(run=folder, eval=config.eval, data=config.data, model=config.model)
    command = parse(record, words, prog, default)
    check_training_set(folder, command.eval.train_dataset)
    return command, replace(config, eval=command.eval, data=command.data, model=command.model)


@contextmanager
def _faults_in_one_line() -> Iterator[None]:
    """Turn what the parser itself refuses, after the check of the words, into an error of one line."""
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            yield
    except SystemExit:
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│ ") for line in box.getvalue().splitlines()]
        found = [line for line in lines if line and line[0] not in "╭╰─"]
        raise UserError(f"the options cannot be read: {'; '.join(found)}") from None


def _nothing(help_text: str) -> Callable[[], None]:
    def verb() -> None: ...

    verb.__doc__ = help_text
    return verb
