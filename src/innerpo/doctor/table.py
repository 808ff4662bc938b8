"""The diagnosis for people: a table, and an error that names the checks that failed."""

from typing import Any

from rich.table import Table

from innerpo.cli.console import stdout
from innerpo.config.run import RunConfig
from innerpo.doctor.checks import Diagnosis, examine
from innerpo.errors import UserError


def consult(config: RunConfig, seed: int) -> None:
    """Print what was found. Raises UserError, naming the checks, where one fails."""
    found = examine(config, seed)
    stdout.print(as_rich(found))
    if found.failures:
        raise UserError(f"{found.method} fails {len(found.failures)} checks: {'; '.join(found.failures)}")


def as_rich(diagnosis: Diagnosis) -> Table:
    """Return the table of terms and whole-method checks."""
    shown = Table(title=f"doctor: {diagnosis.method}", title_justify="left")
    for column in (
        "check",
        "weight",
        "value",
        "gradient share",
        "gradient",
        "step down it",
        "labels swapped",
        "verdict",
    ):
        justify: Any = "right" if column in ("weight", "value", "gradient share") else "left"
        shown.add_column(column, justify=justify, no_wrap=column == "check")
    steps = {"ok": "lowers it", "wrong": "does not", "-": "-"}
    for t in diagnosis.terms:
        share, verdict = f"{t.share:.0%}", "FAIL" if t.faults else "ok"
        shown.add_row(t.name, f"{t.weight:g}", f"{t.value:.3g}", share, t.gradient, steps[t.sign], t.labels, verdict)
    for what, found, right in diagnosis.whole:
        shown.add_row(what, "", "", "", found, "", "", "ok" if right else "FAIL")
    return shown
