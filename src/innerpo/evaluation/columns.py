"""Columns of a table over runs: the evaluation sets, or the shifts of a suite with their mean."""

from dataclasses import dataclass

import polars as pl

MEMBER = ["source", "dataset", "split", "role"]
"""What makes two runs' sets the same column: data trained on, data scored, and its part in the comparison."""

Member = tuple[str, str, str, str]

MEAN = "mean"
"""Name of the column with the mean over the shifts of a suite."""


@dataclass(frozen=True)
class Column:
    """A column: its name, the role of its sets, and the sets; several sets mean a mean over shifts.

    ``set`` is the name that the runs gave to its set, empty for a mean. ``kind``: kind of shift, where it is known.
    """

    name: str
    role: str
    members: tuple[Member, ...]
    set: str = ""
    kind: str = ""


def columns_of(facts: pl.DataFrame) -> tuple[Column, ...]:
    """Return the columns for joined facts or values (any frame with joined.LABELS), in the order of the headline.

    With one source and one set of each role the columns are the sets. Otherwise they are those of a suite: the means of
    ``train`` and ``test`` over all sources, the shifts (``source -> target`` where there are several sources), their
    mean, and the mean of the controls. Extra sets come last, by their names; references of targets have no column.
    """
    found = facts.select(*MEMBER, "set", "kind").unique(MEMBER, keep="first", maintain_order=True)
    by_role = {role: _sets(found.filter(pl.col("role") == role)) for role in ("train", "test", "oos", "rnd", "extra")}
    several = found["source"].n_unique() > 1
    columns = [*_one(by_role["train"], "train"), *_one(by_role["test"], "test")]
    shifts = by_role["oos"]
    if len(shifts) > 1:
        columns += [_named(column, several) for column in shifts]
        columns.append(Column(MEAN, "oos", tuple(m for column in shifts for m in column.members)))
    else:
        columns += _one(shifts, "oos")
    columns += _one(by_role["rnd"], "rnd")
    extra = [column for column in by_role["extra"] if column.kind != "target reference"]
    return _distinct([*columns, *(_named(column, several) for column in extra)])


def _sets(found: pl.DataFrame) -> list[Column]:
    rows = found.select(*MEMBER, "set", "kind").rows()
    return [Column(name, role, ((source, dataset, split, role),), name, kind)
            for source, dataset, split, role, name, kind in rows]  # fmt: skip


def _one(columns: list[Column], name: str) -> list[Column]:
    """One column under the name of the role: the set itself, or the mean over several."""
    if not columns:
        return []
    members = tuple(m for column in columns for m in column.members)
    single = columns[0] if len(columns) == 1 else Column(name, columns[0].role, members)
    return [Column(name, single.role, members, single.set, single.kind)]


def _named(column: Column, several: bool) -> Column:
    """Name a shift by its target, with the source in front where there are several."""
    ((source, dataset, _, _),) = column.members
    target = dataset if column.set in ("oos", "extra") else column.set
    name = f"{source} -> {target}" if several else target
    return Column(name, column.role, column.members, column.set, column.kind)


def _distinct(columns: list[Column]) -> tuple[Column, ...]:
    """Put the split or the data set behind names that occur twice."""
    names = [c.name for c in columns]
    double = {n for n in names if names.count(n) > 1}
    return tuple(
        Column(f"{c.name} ({c.members[0][1]}, {c.members[0][2]})", c.role, c.members, c.set, c.kind)
        if c.name in double and len(c.members) == 1
        else c
        for c in columns
    )
