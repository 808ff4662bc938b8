"""The verb ``report``: runs as one HTML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from innerpo.cli.console import say
from innerpo.cli.flags import parse
from innerpo.errors import UserError


@dataclass(frozen=True)
class ReportCommand:
    """Write one HTML file about scored runs, which opens from disk and needs no network."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, arg(metavar="RUNS")]
    """Folders of scored runs, or patterns in quotes ('outputs/dpo_math_seed*')."""
    out: Path = Path("report.html")
    """File to write."""
    texts: bool = True
    """With the texts of single examples, read again from their data sets, and those that models wrote."""


def report(args: list[str]) -> None:
    """Write an HTML page about runs: tables, charts, single examples: report RUNS... --out=report.html."""
    command = parse(ReportCommand, args, "innerpo report")
    from innerpo.evaluation.report.write import report_runs

    written = report_runs(command.runs, command.out, command.texts)
    say(f"written to {written.path}")
    if written.faults:
        raise UserError("; ".join(written.faults))
