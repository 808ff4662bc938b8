"""Tables of results and comparisons as markdown, LaTeX, csv and JSON."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from innerpo.errors import UserError, near_matches
from innerpo.evaluation.comparison import Comparison
from innerpo.evaluation.marks import short
from innerpo.evaluation.results import Cell, ResultTable
from innerpo.evaluation.statistics import Estimate

FORMATS = ("markdown", "latex", "csv", "json")


@dataclass(frozen=True)
class TextTable:
    """A table as text: header, rows of the same length, which cells are bold, and the lines around it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]]
    notes: tuple[str, ...]


def table_text(table: ResultTable) -> TextTable:
    """Return a table of results as text cells: ``.632 [.571, .690] (n)``; a dash for what is unknown."""
    names = [c.name for c in table.columns]
    header = ("method", *(f"{name}{_signs(table.column_marks.get(name, ()))}" for name in names))
    rows, bold = [], set()
    for r, (row, cells) in enumerate(table.rows.items()):
        rows.append((row, *(cell_text(cells[name], table.digits) for name in names)))
        bold |= {(r, c + 1) for c, name in enumerate(names) if cells[name].best}
    return TextTable(table.caption, header, tuple(rows), frozenset(bold), table.notes)


def transposed(table: TextTable) -> TextTable:
    """Return a table with its rows as columns: for a suite, which has more columns than a line holds."""
    whole = (table.header, *table.rows)
    header, *rows = zip(*whole, strict=True)
    bold = frozenset((c - 1, r + 1) for r, c in table.bold)
    return TextTable(table.title, ("set", *header[1:]), tuple(rows), bold, table.notes)


def comparison_text(found: Comparison) -> TextTable:
    """Return a comparison as text cells, a row per column of the sets; what was found stands in the notes."""
    names = ("p", "Holm", "sign flips", "McNemar")
    tests = [(d.p, d.p_holm, d.p_sign_flip, d.p_mcnemar) for d in found.differences]
    shown = [i for i in range(len(names)) if not all(math.isnan(t[i]) for t in tests)]
    header = ("set", found.a, found.b, "difference", *(names[i] for i in shown))
    rows = tuple(
        (
            d.column.name,
            estimate_text(d.a),
            estimate_text(d.b),
            estimate_text(d.difference, signed=True),
            *(p_text(t[i]) for i in shown),
        )
        for d, t in zip(found.differences, tests, strict=True)
    )
    bold = frozenset((r, 3) for r, d in enumerate(found.differences) if d.found)
    verdicts = [
        f"{d.column.name}: {found.verdict(d)}; output drift {number(d.drift_a)} and {number(d.drift_b)} nats per token"
        for d in found.differences
    ]
    title = f"Accuracy by {found.scorer}: {found.a} less {found.b}"
    return TextTable(title, header, rows, bold, (*verdicts, *found.notes))


def cell_text(cell: Cell, digits: int = 3) -> str:
    """``.632 [.571, .690] (n)``."""
    return f"{estimate_text(cell.estimate, digits)}{_signs(cell.marks)}"


def estimate_text(found: Estimate, digits: int = 3, signed: bool = False) -> str:
    """A mean with its interval; the mean alone where that is unknown; a dash where all is."""
    mean, low, high = (number(x, digits, signed) for x in (found.mean, found.low, found.high))
    return mean if math.isnan(found.mean) or math.isnan(found.low) else f"{mean} [{low}, {high}]"


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """``.632``, ``-3.1``; a dash for NaN; with ``signed`` a plus before what is above 0."""
    if math.isnan(value):
        return "-"
    text = short(value) if digits == 3 else f"{value:.{digits}f}"
    return f"+{text}" if signed and value > 0 else text


def p_text(p: float) -> str:
    """A p value to three decimals, small ones as a bound."""
    return "-" if math.isnan(p) else "< .001" if p < 0.001 else short(p)


def as_markdown(table: TextTable) -> str:
    """Return a table with its title above and its notes beneath."""
    lines = [table.title, "", _bar(table.header), "| --- |" + " ---: |" * (len(table.header) - 1)]
    for r, row in enumerate(table.rows):
        lines.append(_bar([f"**{cell}**" if (r, c) in table.bold else cell for c, cell in enumerate(row)]))
    return "\n".join([*lines, "", *(f"* {note}" for note in table.notes)]) + "\n"


def as_latex(table: TextTable) -> str:
    """Return a table in booktabs' rules, with its title as caption and its notes as comments (pandas' Styler)."""
    import pandas as pd

    frame = pd.DataFrame(list(table.rows), columns=[_escaped(name) for name in table.header])
    escaped = frame.map(_escaped)
    for r, c in table.bold:
        escaped.iat[r, c] = rf"\textbf{{{escaped.iat[r, c]}}}"
    styler = escaped.style.hide(axis="index")
    layout = "l" + "r" * (len(table.header) - 1)
    body = styler.to_latex(hrules=True, column_format=layout, caption=_escaped(table.title), position_float="centering")
    return str(body) + "".join(f"% {' '.join(note.split())}\n" for note in table.notes)


def table_csv(table: ResultTable) -> str:
    """Return one line per row and column, with all numbers of the estimate."""
    lines = [
        {"method": row, "column": name, "metric": table.metric, "scorer": table.scorer}
        | dataclasses.asdict(cell.estimate)
        | {"best": cell.best, "marks": " ".join((*table.column_marks.get(name, ()), *cell.marks))}
        for row, cells in table.rows.items()
        for name, cell in cells.items()
    ]
    return rows_as_csv(lines)


def comparison_csv(found: Comparison) -> str:
    """Return one line per column."""
    return rows_as_csv([_flat(found, i) for i in range(len(found.differences))])


def as_json(record: ResultTable | Comparison) -> str:
    """Return a record as JSON; NaN is null."""
    return json_text(dataclasses.asdict(record))


def json_text(value: Any) -> str:
    """Return plain data as JSON; NaN is null."""
    return json.dumps(_plain(value), indent=2) + "\n"


def render_table(table: ResultTable, format: str) -> str:
    """Return a table of results in a format but text. Raises UserError for one that does not exist."""
    data = {"csv": lambda: table_csv(table), "json": lambda: as_json(table)}
    return render(format, data, lambda: [table_text(table)])


def render_comparison(found: Comparison, format: str) -> str:
    """Return a comparison in a format but text. Raises UserError for one that does not exist."""
    data = {"csv": lambda: comparison_csv(found), "json": lambda: as_json(found)}
    return render(format, data, lambda: [comparison_text(found)])


def render(format: str, data: Mapping[str, Callable[[], str]], tables: Callable[[], Sequence[TextTable]]) -> str:
    """Return the tables as markdown or LaTeX, or what ``data`` has for the format. Raises UserError for another."""
    if format in data:
        return data[format]()
    texts = {"markdown": as_markdown, "latex": as_latex}
    if format not in texts:
        raise UserError(f"unknown format {format!r}{near_matches(format, FORMATS)}")
    return "\n".join(texts[format](table) for table in tables())


def _signs(signs: Sequence[str]) -> str:
    return f" ({', '.join(signs)})" if signs else ""


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def rows_as_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per mapping, with the keys of the first as header; NaN is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in line.items()} for line in lines
    )
    return out.getvalue()


def _flat(found: Comparison, index: int) -> dict[str, Any]:
    d = found.differences[index]
    estimates = {"a": d.a, "b": d.b, "difference": d.difference}
    parts = {
        f"{n}_{k}": v for n, e in estimates.items() for k, v in (("mean", e.mean), ("low", e.low), ("high", e.high))
    }
    tests = {k: getattr(d, k) for k in ("p", "p_holm", "p_mcnemar", "p_sign_flip", "detectable", "drift_a", "drift_b")}
    return {"a": found.a, "b": found.b, "scorer": found.scorer, "column": d.column.name} | parts | tests


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
