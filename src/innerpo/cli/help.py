"""Help: the options that a newcomer needs first (``--help``), or every option (``--help-all``)."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, NoReturn

import tyro
from tyro.conf import arg

from innerpo.cli.commands import FIRST
from innerpo.cli.options import Option, options_of


def wanted(words: Sequence[str]) -> bool:
    """Whether the words ask for help."""
    return bool({"--help", "-h", "--help-all", "--help_all"} & set(words))


def show(record: type, words: Sequence[str], prog: str, default: Any, about: str) -> NoReturn:
    """Print help and leave the program with code 0."""
    about = about or (record.__doc__ or "")
    first = FIRST.get(record)
    if first is None or {"--help-all", "--help_all"} & set(words):
        given = {} if default is None else {"default": default}
        tyro.cli(record, args=["--help"], prog=prog, description=about, use_underscores=True, **given)
    options = options_of(record)
    by_name = {o.name: o for o in options}
    about += f"\n\nThese options come first; all {len(options)} of them: {prog} --help-all"
    if default is None:
        default = record(**{o.name: o.kind("") for o in options if o.positional})
    some = _record([by_name[name] for name in first or () if _has_effect(by_name[name], default)], default)
    tyro.cli(some, args=["--help"], prog=prog, description=about, use_underscores=True)
    raise AssertionError("help leaves the program")


def _has_effect(option: Option, default: Any) -> bool:
    """Whether an option matters: those of a method on hidden states do where the method reads them."""
    return bool(getattr(functools.reduce(getattr, option.path[:-1], default), "reads_states", True))


def _record(options: Sequence[Option], default: Any) -> type:
    """Return a flat record of a few options, each by its full name and with its default in ``default``."""
    fields: list[Any] = []
    for option in options:
        notes = (arg(name=option.name, help=option.help), *([tyro.conf.Positional] if option.positional else []))
        name, hint = "__".join(option.path), Annotated[(option.hint, *notes)]
        value = functools.reduce(getattr, option.path, default)
        fields.append((name, hint) if option.positional else (name, hint, field(default=value)))
    return dataclasses.make_dataclass("Options", fields)
