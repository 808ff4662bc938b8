"""Suites: which data sets are scored beside a source's own, as data. A suite is a list of targets for a source."""

import tomllib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from innerpo.config.run import RunConfig
from innerpo.data.shifts import DistributionShift, default_target, plain_name, shifts_from, suites
from innerpo.errors import UserError, near_matches
from innerpo.registry import SUITES

Role = Literal["train", "test", "oos", "rnd", "extra"]
"""train: pairs trained on; test: the same distribution; oos: the shift; rnd: an unrelated control; extra: the rest."""


@dataclass(frozen=True)
class Target:
    """A data set to score under a name.

    ``target_reference`` names the target that is like this one without its difficulty. ``named``: the user asked for
    this one, so that it is a fault if it cannot be loaded. ``note`` says why there is none.
    """

    name: str
    dataset: str
    role: Role
    kind: str = ""
    split: str = "test"
    target_reference: str = ""
    named: bool = False
    note: str = ""


def targets(config: RunConfig) -> list[Target]:
    """Return the targets of ``eval.suite`` for the source of a run, those that ``eval.sets`` asks for.

    Raises UserError for a suite that does not exist or lists nothing for the source, and for a faulty TOML file.
    """
    source, name = config.eval.train_dataset or config.data.dataset, config.eval.suite
    if name.endswith(".toml"):
        found = _from_file(Path(name), source)
    elif name not in SUITES:
        raise UserError(f"unknown suite {name!r} in eval.suite{near_matches(name, SUITES)}; or give a .toml file")
    elif name == "headline":
        found = _headline(config, source)
    else:
        shifts = [shift for listed in SUITES[name] for shift in suites()[listed]]
        found = _of_shifts(name, shifts, source)
    if name != "headline" and not any(t.role == "rnd" for t in found):
        found.append(_control(config, source, found))
    return _asked_for(found, config, source)


def _headline(config: RunConfig, source: str) -> list[Target]:
    """The source's first listed shift and an unrelated control, or what the config names in their place."""
    target = config.eval.oos_dataset or default_target(source)
    if target is None:
        oos = Target("oos", "", "oos", note=f"oos: no shift is listed for {source}; name one in eval.oos_dataset")
    else:
        oos = Target("oos", target, "oos", kind_of(source, target), named=config.eval.oos_dataset is not None)
    return [oos, _control(config, source, [oos])]


def _control(config: RunConfig, source: str, found: list[Target]) -> Target:
    """The control that the config names, or the first usual one that is not of the kind of source and targets."""
    control = config.eval.rnd_dataset or default_control(source, [t.dataset for t in found])
    if control is None:
        return Target("rnd", "", "rnd", note=f"rnd: no control is listed for {source}; name one in eval.rnd_dataset")
    return Target("rnd", control, "rnd", kind_of(source, control), named=config.eval.rnd_dataset is not None)


def default_control(source: str, others: list[str]) -> str | None:
    """Return an unrelated data set: one that is listed for the source, or the first usual one.

    A usual one is not source or target and not of their kind.
    """
    listed = next((shift.target for shift in shifts_from(source) if shift.kind == "random control"), None)
    if listed is not None and listed not in others:
        return listed
    usual, names = ("ethics:justice", "embedded:control"), [name for name in (source, *others) if name]
    kinds = {name.split(":")[0] for name in names if name.startswith("ethics:")}
    order = reversed(usual) if source.startswith("embedded:") else usual
    return next((n for n in order if n not in names and n.split(":")[0] not in kinds), None)


def kind_of(source: str, target: str) -> str:
    """Kind of a listed shift; empty for an unlisted one."""
    name = plain_name(target)
    return next((shift.kind for shift in shifts_from(source) if shift.target == name), "")


def _of_shifts(suite: str, shifts: list[DistributionShift], source: str) -> list[Target]:
    """Every target that a list has for a source, and behind them the references of those that have one."""
    own = [shift for shift in dict.fromkeys(shifts) if shift.source == plain_name(source)]
    if not own:
        known = ", ".join(sorted({shift.source for shift in shifts}))
        raise UserError(f"the suite {suite!r} lists no shift from {source}; it has shifts from {known}")
    # A random control of the list is what the control set is for.
    found = [
        Target(
            "rnd" if shift.kind == "random control" else _name(shift.target),
            shift.target,
            "rnd" if shift.kind == "random control" else "oos",
            shift.kind,
            target_reference=_name(shift.target_reference or ""),
        )
        for shift in own
    ]
    names = {t.name for t in found}
    references = dict.fromkeys(shift.target_reference for shift in own if shift.target_reference)
    return found + [Target(_name(r), r, "extra", "target reference") for r in references if _name(r) not in names]


def _from_file(path: Path, source: str) -> list[Target]:
    """Read ``[[shifts]]`` (source, target, kind, target_reference) and ``[[sets]]`` (fields of ``Target``)."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the suite {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the suite {path} is not valid TOML: {error}") from error
    wrong = set(tables) - {"shifts", "sets"}
    if wrong or not tables:
        raise UserError(
            f"the suite {path} must hold [[shifts]] or [[sets]], found {', '.join(sorted(wrong)) or 'none'}"
        )
    sets = [_set(row, path) for row in tables.get("sets", [])]
    shifts = [_shift(row, path) for row in tables.get("shifts", [])]
    own = any(shift.source == plain_name(source) for shift in shifts)
    listed = _of_shifts(str(path), shifts, source) if own or not sets else []
    return [replace(t, named=True) for t in [*listed, *sets]]


def _shift(row: Any, path: Path) -> DistributionShift:
    try:
        return DistributionShift(**row)
    except TypeError as error:
        raise UserError(
            f"{path}: a shift has source, target, kind and, where there is one, target_reference, not {row}"
        ) from error


def _set(row: Any, path: Path) -> Target:
    allowed = ("name", "dataset", "role", "kind", "split", "target_reference")
    if not isinstance(row, dict) or "dataset" not in row or set(row) - set(allowed):
        raise UserError(f"{path}: a set has dataset and, if wanted, {', '.join(allowed)}, not {row}")
    if row.get("role", "oos") not in get_args(Role):
        raise UserError(f"{path}: the role {row['role']!r} is not one of {', '.join(get_args(Role))}")
    found: dict[str, Any] = {"name": _name(row["dataset"]), "role": "oos"} | row
    return Target(**found)


def _asked_for(found: list[Target], config: RunConfig, source: str) -> list[Target]:
    """Of the suite's targets those in ``eval.sets`` (all if it is empty), and the other data sets that it names."""
    asked = list(dict.fromkeys(config.eval.sets))
    if not asked:
        return found
    own = {t.name: t for t in found}
    of_suite = [replace(own[name], named=True) for name in asked if name in own]
    others = [name for name in asked if name not in own and name not in ("train", "test")]
    # Two folders may each hold a test.jsonl: a short name that is not that of one set alone gives way to the path.
    short = Counter([*own, "train", "test", *map(_name, others)])
    names = [_name(n) if short[_name(n)] == 1 else n for n in others]
    return of_suite + [
        Target(name, n, "extra", kind_of(source, n), named=True) for name, n in zip(names, others, strict=True)
    ]


def _name(dataset: str) -> str:
    """Name of a set after its data set: without a folder, a GENIES prefix or a suffix."""
    if not dataset:
        return ""
    path = Path(dataset.removeprefix("genies:"))
    return path.stem if path.suffix in (".jsonl", ".json", ".parquet", ".csv") else str(path)
