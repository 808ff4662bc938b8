"""The words of a command that stand for a study: fields of runs take several values here, each a run of its own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin

from innerpo.cli.options import Option, find_option, options_of
from innerpo.config.run import RunConfig
from innerpo.errors import UserError

OWN = ("--slurm.", "--ray.")
"""Sections of a command's own options, which are no fields of runs."""


def split_fields(words: Sequence[str], prog: str) -> tuple[list[str], dict[str, Any]]:
    """Take the fields of runs (``--training.lr 1e-4 2e-4``) out of the words of a command.

    Returns the other words, and the fields by their names: a list where several values were given, to be tried one by
    one; a tuple for a field that is itself a list. Raises UserError for a field that does not exist or a value that is
    none.
    """
    named = {option.name: option for option in options_of(RunConfig)}
    others: list[str] = []
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or "." not in flag or flag.startswith(OWN):
            others.append(word)
            continue
        option, denied = find_option(named, flag, prog)
        values = [value] if equals else []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        swallowed = [text for text in values if text.endswith((".yaml", ".yml"))]
        if swallowed and len(values) > 1 and Path(swallowed[-1]).is_file():
            raise UserError(
                f"{swallowed[-1]} stands among the values of {option.flag}; a study file comes before the flags"
            )
        if option.name in found and not option.takes_many and get_origin(option.hint) is not dict:
            raise UserError(f"{option.flag} is given twice; give all its values at once: {option.flag} A B")
        found[option.name] = _value(option, values, denied)
    return others, found


def _value(option: Option, values: Sequence[str], denied: bool) -> Any:
    """The values of a field as its type has them."""
    if option.is_switch:
        chosen = [text.lower() for text in values or ["true"]]
        if not set(chosen) <= {"true", "false"}:
            raise UserError(f"{option.flag} is a switch: it takes no value, or true or false, not {' '.join(values)!r}")
        flags = [(text == "true") != denied for text in chosen]
        return flags[0] if len(flags) == 1 else flags
    if not values and not option.takes_many:
        raise UserError(f"{option.flag} needs a value, or several to be tried one by one")
    if get_origin(option.hint) is dict:
        return _pairs(option, values)
    typed = [_typed(option, text) for text in values]
    if option.takes_many:
        return tuple(typed)
    return typed[0] if len(typed) == 1 else typed


def _pairs(option: Option, values: Sequence[str]) -> dict[str, Any]:
    """The value of a mapping: name value name value ..."""
    if len(values) % 2:
        raise UserError(f"{option.flag} takes pairs of a name and a value, not {' '.join(values)!r}")
    one = replace(option, hint=get_args(option.hint)[1])
    return {name: _typed(one, text) for name, text in zip(values[::2], values[1::2], strict=True)}


def _typed(option: Option, text: str) -> Any:
    """One value as its type has it; None where the field may be None and the word says so."""
    if text == "None" and type(None) in get_args(option.hint):
        return None
    option.check(text)
    return option.kind(text) if option.kind in (int, float) else text
