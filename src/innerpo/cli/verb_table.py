"""The verb table: a table over runs, a row per method; or their curves."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from innerpo.cli.flags import parse
from innerpo.errors import UserError


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
    baseline: str = "dpo"
    """Method that curves are compared with."""


def table(args: list[str]) -> None:
    """Show a table over scored runs: table 'outputs/*_math_seed*' --format=markdown."""
    command = parse(TableCommand, args, "innerpo table")
    from innerpo.cli.render_results import show
    from innerpo.evaluation.formats import render_table, table_text
    from innerpo.evaluation.results import result_table
    from innerpo.evaluation.study import Study, read_study

    def show_curves(study: Study) -> None:
        from innerpo.evaluation.curve_text import curve_text, gain_text, render_curves
        from innerpo.evaluation.curves import curves, gains

        found = curves(study, command.scorer)
        methods = {curve.method for curve in found}
        gained = gains(study, command.baseline, command.scorer) if len(methods) > 1 else []
        tables = [curve_text(found), *([gain_text(gained)] if gained else [])]
        show(tables, command.format, lambda: render_curves(found, gained, command.format))

    study = read_study(command.runs, strict=False)
    if command.curves:
        show_curves(study)
    else:
        result = result_table(study, command.metric, command.scorer, strengths=command.strengths)
        show([table_text(result)], command.format, lambda: render_table(result, command.format), turn=True)
    if study.faults:
        raise UserError("; ".join(study.faults))
