"""Which sources are scored on which targets: the lists of shifts that ``innerpo.registry.SHIFTS`` names, as records."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from innerpo.registry import SHIFTS


@dataclass(frozen=True)
class DistributionShift:
    """A method is trained on ``source`` and scored on ``target``.

    ``target_reference`` is a data set like the target but without its difficulty (for example the same skill without
    the spurious cue). Comparing the two distinguishes a lost skill from a followed cue.
    """

    source: str
    target: str
    kind: str
    target_reference: str | None = None


def suites() -> dict[str, tuple[DistributionShift, ...]]:
    """Return every list of shifts by name: embedded, genies (the 15 benchmark shifts), genies_all, ..."""
    return {name: _shifts(entry) for name, entry in SHIFTS.items()}


def _shifts(entry: str | Sequence[DistributionShift]) -> tuple[DistributionShift, ...]:
    """Return the shifts of an entry of the table: records, or PACKAGE:FILE.toml#TABLE."""
    if not isinstance(entry, str):
        return tuple(entry)
    where, _, table = entry.partition("#")
    return _read(where)[table]


@cache
def _read(where: str) -> dict[str, tuple[DistributionShift, ...]]:
    package, file = where.split(":")
    tables = tomllib.loads(files(package).joinpath(file).read_text(encoding="utf-8"))
    return {name: tuple(DistributionShift(**row) for row in rows) for name, rows in tables.items()}


def shifts_from(source: str) -> list[DistributionShift]:
    """Return the shifts whose source is a data set, the default one first."""
    name = plain_name(source)
    return [shift for suite in suites().values() for shift in suite if shift.source == name]


def plain_name(dataset: str) -> str:
    """Return the name by which lists of shifts know a data set: without ``genies:``, without options in brackets."""
    return dataset.removeprefix("genies:").partition("(")[0]


def default_target(source: str) -> str | None:
    """Return the target of a source's first shift: the default out-of-distribution set. None for unlisted sources."""
    return next((shift.target for shift in shifts_from(source)), None)


@cache
def genies_names() -> tuple[str, ...]:
    """Return the names of all GENIES distributions, as its shifts mention them: the data need not be there."""
    tables = _read("innerpo.data:shifts.toml")
    listed = tables["genies"] + tables["genies_all"]
    names = {name for s in listed for name in (s.source, s.target, s.target_reference) if name}
    return tuple(sorted(names))
