"""What the verbs table and compare do: read the runs, show what they ask for, then say what was left out."""

from collections.abc import Sequence

from innerpo.cli.render_results import show
from innerpo.errors import UserError
from innerpo.evaluation.comparison import compare_studies
from innerpo.evaluation.curve_text import curve_text, gain_text, render_curves
from innerpo.evaluation.curves import Gain, curves, gains, suite_gains
from innerpo.evaluation.formats import comparison_text, render_comparison, render_table, table_text
from innerpo.evaluation.results import result_table
from innerpo.evaluation.study import Study, read_study
from innerpo.evaluation.study_runs import row_named

DEFAULT = "dpo"
"""The method that curves are compared with where none is named."""


def show_table(runs: Sequence[str], metric: str, scorer: str, format: str, strengths: bool) -> None:
    """Print the table of a metric over runs. Raises UserError, after it is shown, for folders that were left out."""
    study = read_study(runs, strict=False)
    result = result_table(study, metric, scorer, strengths=strengths)
    show([table_text(result)], format, lambda: render_table(result, format), turn=True)
    _left_out(study)


def show_curves(runs: Sequence[str], baseline: str | None, scorer: str, format: str) -> None:
    """Print the curves of the methods, and their gains over the baseline where there is another method.

    Without a named baseline it is dpo, where there is such a method.
    """
    study = read_study(runs, strict=False)
    found = curves(study, scorer)
    methods = list(dict.fromkeys(curve.method for curve in found))
    gained: list[Gain] = []
    if len(methods) > 1 and (baseline is not None or row_named(DEFAULT, methods)):
        gained = [*gains(study, baseline or DEFAULT, scorer), *suite_gains(study, baseline or DEFAULT, scorer)]
    tables = [curve_text(found), *([gain_text(gained)] if gained else [])]
    show(tables, format, lambda: render_curves(found, gained, format))
    _left_out(study)


def show_comparison(a: str, b: str, scorer: str, format: str) -> None:
    """Print the comparison of two methods, each given as a folder or a pattern."""
    studies = [read_study(given, strict=False) for given in (a, b)]
    found = compare_studies(studies[0], studies[1], scorer)
    show([comparison_text(found)], format, lambda: render_comparison(found, format))
    _left_out(*studies)


def _left_out(*studies: Study) -> None:
    faults = [fault for study in studies for fault in study.faults]
    if faults:
        raise UserError("; ".join(faults))
