"""Which sources are scored on which targets: ``shifts.toml`` as records."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class DistributionShift:
    """Trained on ``source``, scored on ``target``.

    ``target_reference`` names data of the target's kind without its catch (the same skill without the spurious
    cue, say), which tells a lost skill from a followed cue.
    """

    source: str
    target: str
    kind: str
    target_reference: str | None = None


@cache
def suites() -> dict[str, tuple[DistributionShift, ...]]:
    """Return every list of shifts by name: embedded, genies (the 15 benchmark shifts), genies_all, ..."""
    table = tomllib.loads(files("innerpo.data").joinpath("shifts.toml").read_text(encoding="utf-8"))
    return {name: tuple(DistributionShift(**row) for row in rows) for name, rows in table.items()}


def shifts_from(source: str) -> list[DistributionShift]:
    """Return the shifts that start at a data set, the default one first."""
    name = source.removeprefix("genies:")
    return [shift for suite in suites().values() for shift in suite if shift.source == name]


def default_target(source: str) -> str | None:
    """Return the data set that is scored as out-of-distribution where none is asked for; None for unlisted data."""
    return next((shift.target for shift in shifts_from(source)), None)


@cache
def genies_names() -> tuple[str, ...]:
    """Return the names of all GENIES distributions, known without the data: those that its shifts mention."""
    listed = suites()["genies"] + suites()["genies_all"]
    names = {name for s in listed for name in (s.source, s.target, s.target_reference) if name}
    return tuple(sorted(names))
