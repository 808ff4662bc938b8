"""The sanity checks of a method as a table for a terminal."""

from typing import Any

from rich.table import Table

from innerpo.doctor.checks import SanityReport

COLUMNS = ("check", "weight", "value", "gradient share", "gradient", "step down it", "labels swapped", "verdict")
STEPS = {"ok": "lowers it", "wrong": "does not", "-": "-"}


def as_rich(report: SanityReport) -> Table:
    """Return the table: a row for each term, then one for each check of the whole method."""
    shown = Table(title=f"doctor: {report.method}", title_justify="left")
    for column in COLUMNS:
        justify: Any = "right" if column in ("weight", "value", "gradient share") else "left"
        shown.add_column(column, justify=justify, no_wrap=column == "check")
    for t in report.terms:
        share, verdict = f"{t.share:.0%}", "FAIL" if t.faults else "ok"
        shown.add_row(t.name, f"{t.weight:g}", f"{t.value:.3g}", share, t.gradient, STEPS[t.sign], t.labels, verdict)
    for what, found, right in report.whole:
        shown.add_row(what, "", "", "", found, "", "", "ok" if right else "FAIL")
    return shown
