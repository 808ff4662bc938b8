"""Tables of a study's methods beside a baseline and each one's own control, as markdown."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import polars as pl

from innerpo.evaluation.curves import gains
from innerpo.evaluation.marks import find_marks
from innerpo.evaluation.results import LEVEL, ResultTable, result_table
from innerpo.evaluation.statistics import UNKNOWN, Estimate, holm, p_value
from innerpo.evaluation.study import Study, select_runs
from innerpo.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
"""The page that shows the tables, each between two marks."""


def accuracies(
    study: Study, rows: Mapping[str, str], sets: tuple[str, ...], strength: float = 1.0
) -> dict[str, list[str]]:
    """Return for every row that was measured its accuracy (mean log-probability) on each set, with its interval.

    ``rows``: name in the table -> row of the study (labels.group_label).
    """
    table = _every_strength(study)
    names = {"base": "base", **{name: _at(table, row, strength) for name, row in rows.items()}}
    return {
        name: [estimate_text(table.rows[row][c].estimate) if c in table.rows[row] else "" for c in sets]
        for name, row in names.items()
        if row in table.rows
    }


@lru_cache(maxsize=4)
def _every_strength(study: Study) -> ResultTable:
    return result_table(study, strengths=True)


def frontier_gains(study: Study, rows: Mapping[str, str], baseline: str) -> dict[tuple[str, str], Estimate]:
    """Return the frontier gain of every row over a baseline (a name among ``rows``), by name and target."""
    back = {row: name for name, row in rows.items()}
    return {
        (back[gain.method], gain.target): gain.frontier for gain in gains(study, rows[baseline]) if gain.method in back
    }


def shift_table(study: Study, source: str, methods: Sequence[str], controls: Mapping[str, str], baseline: str) -> str:
    """A method's accuracies by strength on one shift, and its frontier gains over a baseline and over its own control.

    ``controls``: method -> the control that must lose to it. Methods without scores are left out. The study must have
    one target for this source (planned.of_shift).
    """
    own = select_runs(study, study.runs.filter(study.runs["source"] == source)["run"].to_list())
    scored = own.responses.filter(pl.col("set") == "oos", pl.col("strength") > 0).join(own.runs, on="run")
    known = [name for name in methods if name in scored["method"].unique()]
    strengths = sorted(scored["strength"].unique())
    by_strength = {s: accuracies(own, {name: name for name in known}, ("test", "oos"), s) for s in strengths}
    over_baseline = _gains_over(own, known, baseline)
    over_control = {name: _gains_over(own, [name], controls.get(name, "")).get(name, UNKNOWN) for name in known}
    lines = [["base", "", *by_strength[1.0]["base"], "", ""]]
    for name in known:
        seeds = str(scored.filter(pl.col("method") == name)["seed"].n_unique())
        for strength, figures in by_strength.items():
            if name in figures:
                more = [estimate_text(g, True) for g in (over_baseline.get(name, UNKNOWN), over_control[name])]
                more = more if strength == 1.0 else ["", ""]
                lines.append([f"{name} x {strength:g}", seeds, *figures[name], *more])
    header = ["method", "seeds", "test", "oos", f"gain over {baseline}", "gain over its control"]
    tested = {f"{name} over {baseline}": g for name, g in over_baseline.items() if name != baseline}
    tested |= {f"{name} over its control": g for name, g in over_control.items()}
    return f"{markdown(header, lines)}\n{tests_text(tested, 'gain')} {_levels(own)}\n{_marks(own, known)}"


def tests_text(gains: Mapping[str, Estimate], unit: str) -> str:
    """Which of a table's gains are beyond chance, by t tests with Holm's correction over all of them."""
    p = {name: p_value(found) for name, found in gains.items()}
    p = {name: value for name, value in p.items() if not math.isnan(value)}
    if not p:
        return f"No {unit} can be tested yet."
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    over = f"after Holm's correction over the {len(p)} gains of this table"
    found = [f"{name} (p {value:.3f})" for name, value in adjusted.items() if value < LEVEL]
    if found:
        return f"Beyond chance {over}: {', '.join(found)}."
    least = min(adjusted, key=lambda name: adjusted[name])
    whose = f"the least p is {adjusted[least]:.2f}, of {least}" if adjusted[least] < 1.0 else "every p is 1"
    return f"No {unit} is beyond chance {over} ({whose})."


def _levels(study: Study) -> str:
    table = _every_strength(study)
    levels = [cells["oos"].estimate.level for row, cells in table.rows.items() if row != "base" and "oos" in cells]
    if not levels:
        return ""
    said = f"Intervals are over {' or '.join(dict.fromkeys(levels))}"
    return f"{said}." if all("seeds" in level for level in levels) else f"{said}: those of one seed do not cover seeds."


def _marks(study: Study, rows: Sequence[str]) -> str:
    """What one should know before believing a figure (evaluation/marks.py), as a list; empty where there is nothing."""
    found = [mark for mark in find_marks(study) if mark.row in ("", *rows) and mark.role in ("test", "oos")]
    lines = [f"* {mark.kind}, {mark.role}: {f'{mark.row}: ' if mark.row else ''}{mark.text}\n" for mark in found]
    return "\n" + "".join(lines) if lines else ""


def _gains_over(study: Study, methods: Sequence[str], baseline: str) -> dict[str, Estimate]:
    """Frontier gains of methods on the one shift of a study; none where the baseline was not scored."""
    if baseline not in study.runs["method"].unique():
        return {}
    rows = {name: name for name in (*methods, baseline)}
    return {name: found for (name, _), found in frontier_gains(study, rows, baseline).items()}


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


__all__ = ["PAGE", "UNKNOWN", "accuracies", "estimate_text", "frontier_gains", "insert", "markdown", "tests_text"]
