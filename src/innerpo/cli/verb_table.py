"""The verb table: a table over runs, a row per method; or their curves."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from innerpo.cli.flags import parse


@dataclass(frozen=True)
class TableCommand:
    """Show a table of scored runs: a row per method (the mean over its seeds), a column per evaluation set or shift."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, arg(metavar="RUNS")]
    """Folders of scored runs, or patterns in quotes ('outputs/*_math_seed*')."""
    format: Literal["text", "markdown", "latex", "csv", "json"] = "text"
    """How the table is written."""
    metric: str = "accuracy"
    """accuracy, gain, perplexity_ratio, log_ratio_gain, drift, brier, ece, best_of_n, elicitation, ..."""
    scorer: str = "mean_logp"
    """What ranks the responses: mean_logp, sum_logp, per_character, implicit, inner, longer."""
    strengths: bool = False
    """A row for every strength that was scored, not only for the adapter as trained."""
    curves: bool = False
    """Accuracy by strength instead, and what methods gain over the baseline at equal accuracy in distribution."""
    baseline: str | None = None
    """Method that curves are compared with; else dpo, where it is among them."""


def table(args: list[str]) -> None:
    """Show a table over scored runs: table 'outputs/*_math_seed*' --format=markdown."""
    command = parse(TableCommand, args, "innerpo table")
    from innerpo.cli.over_runs import show_curves, show_table

    if command.curves:
        show_curves(command.runs, command.baseline, command.scorer, command.format)
    else:
        show_table(command.runs, command.metric, command.scorer, command.format, command.strengths)
