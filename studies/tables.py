"""Tables of a study's methods beside a baseline and each one's own control, as markdown."""

from collections.abc import Mapping
from pathlib import Path

from innerpo.evaluation.curves import gains
from innerpo.evaluation.results import ResultTable, result_table
from innerpo.evaluation.statistics import UNKNOWN, Estimate
from innerpo.evaluation.study import Study
from innerpo.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
"""The page that shows the tables, each between two marks."""


def accuracies(
    study: Study, rows: Mapping[str, str], sets: tuple[str, ...], strength: float = 1.0
) -> dict[str, list[str]]:
    """Return for every row that was measured its accuracy (mean log-probability) on each set, with its interval.

    ``rows``: name in the table -> row of the study (labels.group_label).
    """
    table = result_table(study, strengths=True)
    names = {"base": "base", **{name: _at(table, row, strength) for name, row in rows.items()}}
    return {
        name: [estimate_text(table.rows[row][c].estimate) if c in table.rows[row] else "" for c in sets]
        for name, row in names.items()
        if row in table.rows
    }


def frontier_gains(study: Study, rows: Mapping[str, str], baseline: str) -> dict[tuple[str, str], Estimate]:
    """Return the frontier gain of every row over a baseline (a name among ``rows``), by name and target."""
    back = {row: name for name, row in rows.items()}
    return {
        (back[gain.method], gain.target): gain.frontier for gain in gains(study, rows[baseline]) if gain.method in back
    }


def estimate_text(found: Estimate, signed: bool = False) -> str:
    """``.766 [.645, .855]``; with a sign in front of every figure of a difference; empty where it is unknown."""
    if found.mean != found.mean:
        return ""
    mean, low, high = (f"{x:{'+' if signed else ''}.3f}" for x in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table; all columns but the first are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def insert(page: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks of ``name`` in a page. Raises ValueError where it has none."""
    before, found, rest = page.read_text().partition(f"<!-- begin {name} -->\n")
    _, end, after = rest.partition(f"<!-- end {name} -->")
    if not (found and end):
        raise ValueError(f"{page.name} has no marks of {name}")
    write_text(page, f"{before}{found}\n{text.strip()}\n\n{end}{after}")


def _at(table: ResultTable, row: str, strength: float) -> str:
    return row if strength == 1.0 and row in table.rows else f"{row} x {strength:g}"


__all__ = ["PAGE", "UNKNOWN", "accuracies", "estimate_text", "frontier_gains", "insert", "markdown"]
