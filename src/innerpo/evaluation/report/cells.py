"""Numbers as cells of a table: a dash for what is unknown, never 0."""

import math
from pathlib import PurePath

from innerpo.data.sources import FILE_ENDINGS
from innerpo.evaluation.report.records import Cell

UNKNOWN = Cell("–", float("nan"))


def text(value: object) -> Cell:
    """A cell that is sorted by its text."""
    return Cell(str(value))


def number(value: float | None, digits: int = 3, signed: bool = False) -> Cell:
    """A number with a fixed count of digits."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return Cell(short(value, digits, signed), float(value))


def whole(value: int | None) -> Cell:
    """A count."""
    return UNKNOWN if value is None else Cell(f"{value}", float(value))


def interval(
    mean: float,
    low: float,
    high: float,
    digits: int = 3,
    signed: bool = False,
    marks: tuple[str, ...] = (),
    best: bool = False,
) -> Cell:
    """``0.632 [0.571, 0.690]``; without the interval where it is unknown."""
    if not math.isfinite(mean):
        return Cell(UNKNOWN.text, UNKNOWN.value, marks)
    shown = short(mean, digits, signed)
    if math.isfinite(low) and math.isfinite(high):
        shown += f" [{short(low, digits, signed)}, {short(high, digits, signed)}]"
    return Cell(shown, float(mean), marks, best)


def short_name(dataset: str) -> str:
    """Name of a data set without the folders of a file; ``owner/name`` of the Hub stays."""
    is_file = dataset.startswith(("/", ".", "~")) or PurePath(dataset).suffix in FILE_ENDINGS
    return PurePath(dataset).name if is_file else dataset


def short(value: float, digits: int, signed: bool = False) -> str:
    """A number with a true minus sign; what rounds to zero has no sign."""
    rounded = round(value, digits) + 0.0
    sign = "−" if rounded < 0 else "+" if signed and rounded > 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"
