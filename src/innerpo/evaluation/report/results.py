"""The sections on results: headline table, gains per set, scorers."""

from collections.abc import Mapping

from innerpo.evaluation.report import charts
from innerpo.evaluation.report.cells import interval, text
from innerpo.evaluation.report.records import Cell, Figure, Section, Series, Table
from innerpo.evaluation.results import ResultTable, known_scorers, result_table
from innerpo.evaluation.study import Study

BASE = "base"

def result_as_table(found: ResultTable, digits: int = 3, signed: bool = False) -> Table:
    """Return a table of results as the page shows it: intervals, marks, the best of each column bold."""
    columns = ("method", *(column.name for column in found.columns))
    rows = tuple(
        (text(_named(row, found)), *(_cell(found, row, column.name, digits, signed) for column in found.columns))
        for row in found.rows
    )
    return Table(found.caption, columns, rows, tuple(found.notes))

def headline_section(study: Study, series: tuple[Series, ...]) -> Section:
    """Accuracy of base and policies on every set, with intervals and marks."""
    return Section("headline", "Accuracy", (), (result_as_table(result_table(study, "accuracy")),))

def gains_section(study: Study, series: tuple[Series, ...]) -> Section | None:
    """Forest plot of gains over the base, set by set; None where there is no policy."""
    found = result_table(study, "gain")
    rows = [
        {
            "set": column.name,
            "series": row,
            "mean": 100 * cell.estimate.mean,
            "low": 100 * cell.estimate.low,
            "high": 100 * cell.estimate.high,
            "text": _cell(found, row, column.name, 1, True, 100).text,
        }
        for column in found.columns
        if column.role != "train"
        for row, cells in found.rows.items()
        if row != BASE and (cell := cells.get(column.name)) is not None
    ]
    if not rows:
        return None
    used = tuple(s for s in series if any(row["series"] == s.label for row in rows))
    spec = charts.forest(rows, used, "gain in accuracy over the base, points")
    description = (
        f"Gain over the base in percentage points, with intervals, of {len(used)} methods on "
        f"{len({row['set'] for row in rows})} sets; the table below has the numbers."
    )
    caption = f"Right of the dashed line a policy is more often right than its base. {found.caption}."
    columns = ("method", *(column.name for column in found.columns))
    cells = tuple(
        (text(row), *(_cell(found, row, column.name, 1, True, 100) for column in found.columns))
        for row in found.rows
        if row != BASE
    )
    table = Table("Gain over the base, percentage points", columns, cells)
    figure = Figure("gains-forest", "", caption, description, spec, table)
    return Section("gains", "Gain per set", (), (), (figure,), used)

def scorers_section(study: Study, series: tuple[Series, ...]) -> Section | None:
    """Accuracy by every scorer, and where the winner depends on it; None where only one scorer is known."""
    tables = {name: result_table(study, "accuracy", scorer=name) for name in known_scorers(study)}
    if len(tables) < 2:
        return None
    columns = next(iter(tables.values())).columns
    winners = {c.name: {name: winner(table, c.name) for name, table in tables.items()} for c in columns}
    differing = [c.name for c in columns if len(set(winners[c.name].values()) - {""}) > 1]
    said = (
        f"The winner depends on the scorer on {', '.join(differing)}."
        if differing
        else "On every set the same method has the highest accuracy under every scorer."
    )
    rows = tuple(
        (text(column.name), *(_winner_cell(tables[name], winners[column.name], name) for name in tables))
        for column in columns
    )
    table = Table("Policy with the highest accuracy, by scorer; bold where it is not mean_logp's", ("set", *tables), rows)
    figures = tuple(_scorer_figure(tables, column.name, column.name, series) for column in columns if _shown(column.role))
    used = tuple(s for s in series if any(s.label in table.rows for table in tables.values()))
    text_ = ("A scorer turns what was measured of a response into one number; accuracy counts the pairs in which chosen has more.",)
    return Section("scorers", "Scorers", (*text_, said), (table,), figures, used)

def winner(table: ResultTable, column: str) -> str:
    """Return the policy with the highest accuracy in a column; empty where none is known or two are level."""
    means = {row: cells[column].estimate.mean for row, cells in table.rows.items() if row != BASE and column in cells}
    known = {row: mean for row, mean in means.items() if mean == mean}
    best = [row for row, mean in known.items() if mean == max(known.values())]
    return best[0] if len(best) == 1 else ""

def _shown(role: str) -> bool:
    return role in ("test", "oos")

def _scorer_figure(tables: Mapping[str, ResultTable], name: str, title: str, series: tuple[Series, ...]) -> Figure:
    rows, data = [], []
    for scorer, table in tables.items():
        for row, cells in table.rows.items():
            if row == BASE or name not in cells:
                continue
            e = cells[name].estimate
            shown = _cell(table, row, name, 3, False)
            rows.append({"scorer": scorer, "series": row, "mean": e.mean, "low": e.low, "high": e.high, "text": shown.text})
            data.append((text(scorer), text(row), shown))
    used = tuple(s for s in series if any(row["series"] == s.label for row in rows))
    spec = charts.forest(rows, used, "accuracy", category="scorer", rule=None)
    caption = next(iter(tables.values())).caption
    description = f"Accuracy on {title} by scorer, with intervals; the table below has the numbers."
    return Figure(f"scorers-{name}", title, caption, description, spec, Table(title, ("scorer", "method", "accuracy"), tuple(data)))

def _winner_cell(table: ResultTable, winners: Mapping[str, str], scorer: str) -> Cell:
    usual = winners.get("mean_logp", "")
    found = winners[scorer]
    return Cell(found or "–", None, (), bool(found and usual and found != usual))

def _named(row: str, found: ResultTable) -> str:
    seeds = found.seeds.get(row, ())
    return f"{row} ({len(seeds)} seeds)" if len(seeds) > 1 else row

def _cell(found: ResultTable, row: str, column: str, digits: int, signed: bool, factor: float = 1.0) -> Cell:
    cell = found.rows[row].get(column)
    if cell is None:
        return interval(float("nan"), float("nan"), float("nan"))
    e = cell.estimate
    values = (e.mean * factor, e.low * factor, e.high * factor)
    return interval(*values, digits=digits, signed=signed, marks=cell.marks, best=cell.best)

__all__ = ["gains_section", "headline_section", "result_as_table", "scorers_section", "short", "winner"]
