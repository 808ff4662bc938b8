"""The options that a command's record has, and a check of the words on the command line against them.

The check comes before the parser (tyro), so that a wrong word gets one sentence with what would be right.
"""

import ast
import dataclasses
import difflib
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from innerpo.errors import UserError

KINDS = {int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Option:
    """One option (``training.lr``), or a positional word, of a command."""

    name: str
    path: tuple[str, ...]
    """Attributes that lead from the record to the value."""
    hint: Any
    help: str
    positional: bool = False
    required: bool = False
    """A positional word that cannot be left out."""

    @property
    def flag(self) -> str:
        """``--training.lr``; RUN for a positional word."""
        return self.name.upper() if self.positional else f"--{self.name}"

    @property
    def kind(self) -> Any:
        """The type of one value: of an optional the type itself, of a tuple that of its items."""
        plain = _plain(self.hint)
        return typing.get_args(plain)[0] if typing.get_origin(plain) is tuple else plain

    @property
    def is_switch(self) -> bool:
        """Whether it is given without a value."""
        return self.kind is bool

    @property
    def takes_many(self) -> bool:
        """Whether it takes any number of values."""
        return typing.get_origin(_plain(self.hint)) in (tuple, dict)

    def check(self, text: str) -> None:
        """Raise UserError where a text is no value of this option."""
        if typing.get_origin(self.kind) is Literal:
            known = [str(value) for value in typing.get_args(self.kind)]
            if text not in known:
                choices = f"one of {', '.join(known[:-1])} or {known[-1]}" if known[1:] else known[0]
                raise UserError(f"{self.flag} is {choices}, not {text!r}{_did_you_mean(text, known)}")
        elif self.kind in KINDS:
            try:
                self.kind(text)
            except ValueError:
                raise UserError(f"{self.flag} takes {KINDS[self.kind]}, not {text!r}") from None


def options_of(record: type, prefix: str = "", path: tuple[str, ...] = ()) -> list[Option]:
    """Return the options of a command's record, in order, those of its sections in the place of the section."""
    hints, helps, found = typing.get_type_hints(record, include_extras=True), help_texts(record), []
    for f in dataclasses.fields(record):
        hint, notes = hints[f.name], getattr(hints[f.name], "__metadata__", ())
        bare = _plain(hint)
        if isinstance(bare, type) and dataclasses.is_dataclass(bare):
            unnamed = any(getattr(note, "name", None) == "" for note in notes)
            found += options_of(bare, prefix if unnamed else f"{prefix}{f.name}.", (*path, f.name))
        else:
            positional = tyro.conf.Positional in notes
            required = positional and f.default is dataclasses.MISSING
            found.append(Option(prefix + f.name, (*path, f.name), hint, helps.get(f.name, ""), positional, required))
    return found


def help_texts(record: type) -> dict[str, str]:
    """Return the text below each field of a dataclass (bases included), by the field's name."""
    texts: dict[str, str] = {}
    for kind in reversed(record.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                text = below.value if isinstance(below, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    texts[line.target.id] = text.value
    return texts


def check_words(record: type, words: Sequence[str], prog: str) -> list[str]:
    """Check the words of a command; return them as the parser takes them (``--x=true`` becomes ``--x``).

    Raises UserError, in one sentence, for an unknown option, a wrong or missing value, a word too many or too few.
    """
    options = options_of(record)
    named = {o.name: o for o in options if not o.positional}
    missing = [o for o in options if o.positional]
    checked: list[str] = []
    given: set[str] = set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            if not missing:
                raise UserError(f"{prog} has no place for the word {word!r}; an option begins with --")
            given.add(missing[0].name)
            if not missing[0].takes_many:
                missing.pop(0)
            checked.append(word)
            continue
        flag, equals, value = word.partition("=")
        option, denied = find_option(named, flag, prog)
        if option.is_switch:
            checked.append(_switch(option, denied, value if equals else "true"))
            continue
        values = [value] if equals else []
        while rest and not rest[0].startswith("--") and (option.takes_many or not values):
            values.append(rest.pop(0))
        if not values and not option.takes_many:
            raise UserError(f"{option.flag} needs a value{_kind(option)}")
        if typing.get_origin(_plain(option.hint)) is dict:
            _check_pairs(option, values)
        else:
            for text in values:
                option.check(text)
        checked += [f"{option.flag}={value}", *values[1:]] if equals else [option.flag, *values]
    missing = [o for o in missing if o.required and o.name not in given]
    if missing:
        first = missing[0]
        raise UserError(f"{prog} needs {first.flag} ({first.help.rstrip('.')})")
    return checked


def unknown(kind: str, word: str, known: Iterable[str], otherwise: str) -> UserError:
    """Return the error for a word that is none of those that are known, with the nearest of them."""
    return UserError(f"there is no {kind} {word!r}{_did_you_mean(word, known) or f'; {otherwise}'}")


def find_option(named: dict[str, Option], flag: str, prog: str) -> tuple[Option, bool]:
    """Return the option behind a flag, and whether the flag denies it (``--training.no_resume``)."""
    name = flag.lstrip("-").replace("-", "_") if flag.startswith("--") else ""
    section, _, last = name.rpartition(".")
    positive = f"{section}.{last.removeprefix('no_')}".lstrip(".")
    if name in named:
        return named[name], False
    if last.startswith("no_") and positive in named and named[positive].is_switch:
        return named[positive], True
    same = [o for o in named if o.rpartition(".")[2] == last]
    near = same or difflib.get_close_matches(name, named, n=1, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(f'--{n}') for n in near)}?" if near else f"{prog} --help-all lists them"
    raise UserError(f"there is no option {flag}; {hint}")


def _switch(option: Option, denied: bool, value: str) -> str:
    if value.lower() not in ("true", "false"):
        raise UserError(f"{option.flag} is a switch: it takes no value, or true or false, not {value!r}")
    section, dot, last = option.name.rpartition(".")
    return option.flag if (value.lower() == "true") != denied else f"--{section}{dot}no_{last}"


def _check_pairs(option: Option, values: Sequence[str]) -> None:
    """Check the words of a mapping: name value name value ..."""
    _, kind = typing.get_args(_plain(option.hint))
    if len(values) % 2:
        raise UserError(f"{option.flag} takes pairs of a name and {KINDS[kind]}, not {' '.join(values)!r}")
    for text in values[1::2]:
        dataclasses.replace(option, hint=kind).check(text)


def _kind(option: Option) -> str:
    if typing.get_origin(option.kind) is Literal:
        return f": {', '.join(map(str, typing.get_args(option.kind)))}"
    return f" ({KINDS[option.kind]})" if option.kind in KINDS else ""


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _plain(hint: Any) -> Any:
    """Return a type without its notes and without None."""
    if typing.get_origin(hint) is typing.Annotated:
        return _plain(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _plain(next(a for a in typing.get_args(hint) if a is not type(None)))
    return hint
