"""Tables and comparisons of scored runs in one call: ``innerpo.table`` and ``innerpo.compare``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from innerpo.evaluation.comparison import Comparison, compare_studies
from innerpo.evaluation.results import ResultTable, result_table
from innerpo.evaluation.study import read_study

Runs = str | Path | Sequence[str | Path]
"""Folders of scored runs, or glob patterns."""


def table(
    runs: Runs,
    metric: str = "accuracy",
    scorer: str = "mean_logp",
    *,
    capabilities: Mapping[str, float] | None = None,
    strengths: bool = False,
) -> ResultTable:
    """Return the table of a metric over scored runs: a row per method, a column per evaluation set or shift.

    ``capabilities``: accuracy of a model trained on a target itself, by data set, for ``elicitation``. ``strengths``: a
    row for every strength that was scored. ``evaluation.formats.render_table`` writes it as markdown, LaTeX, csv or
    JSON. Raises UserError for runs that cannot be read or have different base models, and for unknown names.
    """
    return result_table(read_study(runs), metric, scorer, capabilities=capabilities, strengths=strengths)


def compare(a: Runs, b: Runs, scorer: str = "mean_logp") -> Comparison:
    """Compare two methods, each one run or several seeds of it, paired by prompt and seed; differences are a - b.

    Raises UserError where a side holds several methods, where the base models differ, and where nothing is shared.
    """
    return compare_studies(read_study(a), read_study(b), scorer)
