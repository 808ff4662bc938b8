"""From runs to HTML, by the report's templates and a few of its own. Every text is escaped."""

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader

from innerpo.evaluation.report import render
from innerpo.evaluation.report.embed import asset as report_asset
from innerpo.evaluation.report.embed import vega_bundle
from innerpo.evaluation.report.records import Table
from innerpo.view import tables
from innerpo.view.curves import FIRST
from innerpo.view.runs import Run
from innerpo.view.status import minutes

ORDER = ("training", "scoring", "failed", "interrupted", "stale", "planned", "finished")
"""Statuses in the order of the overview's counts."""
ASSETS = ("report.css", "view.css", "theme.js", "report.js", "view.js", "vega.js")


def list_page(root: str, runs: Sequence[Run], chosen: Sequence[str]) -> str:
    """Return the page that lists the runs; ``chosen`` are the paths of those whose boxes are ticked."""
    counts = {status: sum(run.status == status for run in runs) for status in ORDER}
    columns = {run.path: tables.overview(run) for run in runs}
    return _render("list.html.j2", root=root, runs=runs, chosen=set(chosen), counts=counts, overview=columns)


def run_page(root: str, run: Run) -> str:
    """Return the page of one run."""
    return _render("run.html.j2", root=root, run=run, tables=tables.headline_tables(run), log=tables.log_table(run))


def compare_page(root: str, runs: Sequence[Run], missing: Sequence[str], paired: Table | str) -> str:
    """Return the page that shows runs side by side.

    ``missing`` are paths at which there is no run (any more); ``paired`` compares two, or says why it does not.
    """
    found = {"headline": tables.compared(runs), "options": tables.differing_options(runs)}
    table, note = (paired, "") if isinstance(paired, Table) else (None, paired)
    return _render("compare.html.j2", root=root, runs=runs, missing=missing, paired=table, unpaired=note, **found)


def asset(name: str) -> str:
    """Return a script or style of the pages. Raises KeyError for another name."""
    if name not in ASSETS:
        raise KeyError(name)
    if name == "vega.js":
        return vega_bundle()
    if name.startswith("view."):
        return _own_asset(name)
    return report_asset(name)


@cache
def _own_asset(name: str) -> str:
    loader = PackageLoader("innerpo.view", "assets")
    return loader.get_source(_environment(), name)[0]


@cache
def _environment() -> Environment:
    loaders = [PackageLoader("innerpo.view", "assets"), PackageLoader("innerpo.evaluation.report", "assets")]
    found = render.environment().overlay(loader=ChoiceLoader(loaders))
    found.filters |= {"minutes": minutes, "clock": _clock, "stamp": _stamp}
    return found


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(first_curves=FIRST, sets=tables.SETS, **values)


def _clock(seconds: float) -> str:
    """Time of day, with the date where that is not today."""
    if seconds != seconds:
        return "–"
    then, now = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)


def _stamp(seconds: float) -> str:
    return "" if seconds != seconds else time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
