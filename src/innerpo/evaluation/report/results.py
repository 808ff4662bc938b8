"""The sections on results: headline table, gains per set, scorers."""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from innerpo.evaluation.columns import MEAN, MEMBER, Column, Member, columns_of
from innerpo.evaluation.estimates import at, estimate
from innerpo.evaluation.grids import grids
from innerpo.evaluation.marks import SIGNS, winners
from innerpo.evaluation.metrics.metric import Metric, measure
from innerpo.evaluation.report import charts
from innerpo.evaluation.report.cells import interval, short_name, text
from innerpo.evaluation.report.records import Cell, Figure, Section, Series, Table
from innerpo.evaluation.results import ResultTable, known_scorers
from innerpo.evaluation.statistics import Estimate
from innerpo.evaluation.study import Study
from innerpo.registry import METRICS, resolve

BASE = "base"
KINDS = {sign: kind for kind, sign in SIGNS.items()}

MARKS = {
    "did not learn": "accuracy on test is not above the base's",
    "incoherent": "the perplexity of chosen responses is more than twice the base's",
    "length": "the rule that the longer response wins scores the set above .65 or below .35",
    "scorer-dependent": "the most accurate method changes with the scorer",
    "overlap": "prompts of the set are training prompts, or nearly so",
}
"""What each mark means (evaluation/marks.py)."""


def result_as_table(found: ResultTable, signed: bool = False) -> Table:
    """Return a table of results as the page shows it: intervals, marks in words, the best of each column bold."""
    columns = ("method", *headings(found.columns))
    marks = ((), *(_words(found.column_marks.get(column.name, ())) for column in found.columns))
    rows = tuple(
        (text(_named(row, found)), *(result_cell(found, row, column.name, signed) for column in found.columns))
        for row in found.rows
    )
    return Table(found.caption, columns, rows, found.notes, marks).narrow("set")


def headline_section(found: ResultTable) -> Section:
    """Accuracy of base and policies on every set, with intervals and marks."""
    bold = "Bold: better than the next best on this set beyond chance (paired test, Holm's correction over the sets)."
    best = any(cell.best for cells in found.rows.values() for cell in cells.values())
    return Section("headline", "Accuracy", (bold,) if best else (), (result_as_table(found),))


def gains_section(found: ResultTable, series: tuple[Series, ...]) -> Section | None:
    """Forest plot of gains over the base, set by set; None where there is no policy. ``found``: the metric gain."""
    named = zip(found.columns, headings(found.columns), strict=True)
    rows = [row for column, name in named if column.role != "train" for row in _estimates(found, column, name)]
    used = tuple(s for s in series if any(row["series"] == s.label for row in rows))
    if not used:
        return None
    sets = len({row["set"] for row in rows})
    table = result_as_table(found, signed=True)
    figure = Figure(
        "gains-forest",
        "",
        f"Right of the dashed line a policy is more often right than its base. {found.caption}.",
        f"Gain over the base in points, with intervals, of {len(used)} methods on {sets} sets; see the table.",
        charts.forest(rows, used, "gain in accuracy over the base, points"),
        Table(table.caption, table.columns, table.rows),
    )
    return Section("gains", "Gain per set", (), (), (figure,), used)


def scorers_section(study: Study, series: tuple[Series, ...]) -> Section | None:
    """Accuracy by every scorer, and where the winner depends on it; None where only one scorer is known."""
    names = known_scorers(study)
    if len(names) < 2:
        return None
    columns, found = accuracies(study, names)
    shown = [(c, name) for c, name in zip(columns, headings(columns), strict=True) if c.role in ("test", "oos")]
    figures = tuple(_scorer_figure(found, c, name, series) for c, name in shown[:1] + shown[-1:])
    used = tuple(s for s in series if any(s.label in by_row for by_row in found.values()))
    about = "A scorer turns what was measured of a response into one number; a pair is right where chosen has more."
    if len(used) < 2:
        return Section("scorers", "Scorers", (about,), (), _distinct(figures), used)
    table, differing = _winner_table(winners(study, names), names, columns)
    said = f"The method with the highest accuracy depends on the scorer on {', '.join(differing)}."
    if not differing:
        said = "On every set one method has the highest accuracy by every scorer."
    return Section("scorers", "Scorers", (about, said), (table,), _distinct(figures), used)


def result_cell(found: ResultTable, row: str, column: str, signed: bool = False) -> Cell:
    """Return a cell of results as text, with its marks in words."""
    cell = found.rows[row][column]
    e = cell.estimate
    return interval(e.mean, e.low, e.high, found.digits, signed, _words(cell.marks), cell.best)


def headings(columns: Sequence[Column]) -> tuple[str, ...]:
    """Names of columns as the page shows them: files without their folders where no two agree, means with a count."""
    short_names = [short_name(column.name) for column in columns]
    return tuple(_heading(c, name if short_names.count(name) == 1 else c.name)
                 for c, name in zip(columns, short_names, strict=True))  # fmt: skip


def _heading(column: Column, name: str) -> str:
    count = len(column.members)
    if count == 1:
        return name
    return f"{name} of {count} shifts" if column.name == MEAN else f"{name}, mean of {count} sets"


def _words(signs: Sequence[str]) -> tuple[str, ...]:
    return tuple(KINDS.get(sign, sign) for sign in signs)


def _named(row: str, found: ResultTable) -> str:
    seeds = found.seeds.get(row, ())
    return f"{row} ({len(seeds)} seeds)" if len(seeds) > 1 else row


def _estimates(found: ResultTable, column: Column, name: str) -> list[dict[str, object]]:
    """The policies' estimates of a column as rows of a forest plot."""
    rows = []
    for row, cells in found.rows.items():
        e = cells[column.name].estimate
        shown = result_cell(found, row, column.name, signed=True).text
        values = {"mean": e.mean, "low": e.low, "high": e.high, "text": shown}
        rows += [] if row == BASE else [{"set": name, "series": row} | values]
    return rows


def accuracies(
    study: Study, scorers: Sequence[str]
) -> tuple[tuple[Column, ...], dict[str, dict[str, dict[str, Estimate]]]]:
    """Return the columns, and the accuracy by scorer, row and column."""
    metric: Metric = resolve(METRICS, "accuracy", "metric")
    columns: tuple[Column, ...] = ()
    found = {}
    for scorer in scorers:
        values = metric.function(measure(study, scorer))
        columns, cells = columns or columns_of(values), grids(values)
        rows = values["row"].unique(maintain_order=True).to_list()
        found[scorer] = {
            row: {c.name: estimate(at(cells, row, c.members), metric) for c in columns} for row in sorted(rows)
        }
    return columns, found


def _scorer_figure(
    found: Mapping[str, Mapping[str, Mapping[str, Estimate]]], column: Column, name: str, series: tuple[Series, ...]
) -> Figure:
    rows, data = [], []
    for scorer, by_row in found.items():
        for row, cells in by_row.items():
            e = cells[column.name]
            cell = interval(e.mean, e.low, e.high)
            data.append((text(scorer), text(row), cell))
            values = {"mean": e.mean, "low": e.low, "high": e.high, "text": cell.text}
            rows += [] if row == BASE else [{"scorer": scorer, "series": row} | values]
    used = tuple(s for s in series if any(row["series"] == s.label for row in rows))
    levels = dict.fromkeys(cells[column.name].level for by_row in found.values() for cells in by_row.values())
    covers = ", ".join(level for level in levels if level)
    return Figure(
        f"scorers-{column.role}",
        name,
        f"Accuracy on {name} by scorer, 95 % intervals over {covers}.",
        f"Accuracy on {name} by scorer, with intervals; a table has the numbers.",
        charts.forest(rows, used, "accuracy", category="scorer", rule=None),
        Table(f"Accuracy on {name}", ("scorer", "method", "accuracy"), tuple(data)),
    )


def _winner_table(found: pl.DataFrame, names: Sequence[str], columns: Sequence[Column]) -> tuple[Table, list[str]]:
    """Who has the highest accuracy on each set by each scorer, and the sets where it is not always the same."""
    rows, differing = [], []
    for name, member in _sets(columns):
        same = pl.all_horizontal(*(pl.col(k) == v for k, v in zip(MEMBER, member, strict=True)))
        by_scorer = dict(found.filter(same).select("scorer", "winner").iter_rows())
        usual = by_scorer.get("mean_logp")
        if len(set(by_scorer.values())) > 1:
            differing.append(name)
        cells = (Cell(by_scorer.get(n, "–"), best=by_scorer.get(n, usual) != usual) for n in names)
        rows.append((text(name), *cells))
    caption = "Method with the highest accuracy, by scorer; bold where it is another than by mean_logp"
    return Table(caption, ("set", *names), tuple(rows)), differing


def _sets(columns: Sequence[Column]) -> Iterator[tuple[str, Member]]:
    """Every set of some columns once, with its name; those of the mean over shifts have columns of their own."""
    for column, name in zip(columns, headings(columns), strict=True):
        if len(column.members) == 1:
            yield name, column.members[0]
        elif column.name != MEAN:
            for member in column.members:
                source, dataset = map(short_name, member[:2])
                yield f"{column.name}: {dataset if source == dataset else f'{source} -> {dataset}'}", member


def _distinct(figures: tuple[Figure, ...]) -> tuple[Figure, ...]:
    return tuple({figure.name: figure for figure in figures}.values())
