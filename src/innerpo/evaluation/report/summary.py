"""The first screen in words: what was compared, and the headline result in one sentence from the statistics."""

import math
from collections.abc import Mapping, Sequence

import polars as pl

from innerpo.evaluation.columns import Column
from innerpo.evaluation.estimates import PairedTest, at, compare_grids
from innerpo.evaluation.grids import grids
from innerpo.evaluation.metrics.metric import Metric, measure
from innerpo.evaluation.report.cells import short, short_name
from innerpo.evaluation.report.folders import trained_runs
from innerpo.evaluation.report.strength import baseline_of
from innerpo.evaluation.results import LEVEL, ResultTable
from innerpo.evaluation.statistics import Estimate, holm
from innerpo.evaluation.study import Study
from innerpo.registry import METRICS, resolve

NAMED = 4
"""So many names are listed; the rest are counted."""


def title(study: Study) -> str:
    """Return what the page is about: methods and what they were trained on."""
    methods, sources = (list(dict.fromkeys(study.runs[name].to_list())) for name in ("method", "source"))
    return f"{_listed(methods)} trained on {_listed([short_name(name) for name in sources])}"


def compared(study: Study) -> tuple[tuple[str, str], ...]:
    """Return what was compared, as terms: methods with their seeds, base model, sets, folders that were left out."""
    trained = study.runs.filter(pl.col("run").is_in([run["run"] for run, _ in trained_runs(study)]))
    runs = trained.group_by("method", maintain_order=True).agg(pl.len(), pl.col("seed").n_unique().alias("seeds"))
    methods = [f"{m} ({n} {_plural(n, 'run')}, {seeds} {_plural(seeds, 'seed')})" for m, n, seeds in runs.iter_rows()]
    bases = [name for name in dict.fromkeys(study.runs["base_model"].to_list()) if name]
    sets = study.responses.select("set", "dataset", "split", "prompt").unique()
    names = list(dict.fromkeys(study.responses["set"].to_list()))
    empty = study.sets.filter(pl.col("note") != "")["note"].unique(maintain_order=True).to_list()
    found = [
        ("methods", ", ".join(methods)),
        ("base model", ", ".join(bases) or "unknown"),
        ("sets", f"{_listed(names, 12)}; {len(sets)} prompts"),
        *(("not scored", note) for note in empty),
        *(("left out", fault) for fault in study.faults),
    ]
    return tuple(found)


def answer(study: Study, gains: ResultTable) -> str:
    """Return the headline result: how methods differ from the baseline, or the one method from its base.

    ``gains`` is the table of gains over the base. Tests of several methods carry Holm's correction.
    """
    column = _asked(gains)
    methods = [row for row in dict.fromkeys(study.runs["method"].to_list()) if row in gains.rows]
    if column is None or not methods:
        return "No policy was scored, so there is nothing to compare."
    where = _where(column)
    if len(methods) == 1:
        return against_base(methods[0], gains.rows[methods[0]][column.name].estimate, where)
    baseline = baseline_of(methods)
    return against_baseline(_tests(study, [m for m in methods if m != baseline], baseline, column), baseline, where)


def against_base(method: str, gain: Estimate, where: str) -> str:
    """One sentence about a method and its base; ``gain`` is in points."""
    if math.isnan(gain.mean):
        return f"Whether {method} differs from its base {where} is not known."
    if math.isnan(gain.low):
        return f"{method} against its base {where}: {_points(gain)}, without an interval."
    if gain.low > 0 or gain.high < 0:
        return f"{method} is {_more(gain)} often right than its base {where}: {_points(gain)}."
    return f"No difference found between {method} and its base {where}: {_points(gain)}."


def against_baseline(found: Mapping[str, PairedTest], baseline: str, where: str) -> str:
    """One sentence about methods and the one that they are compared with, from paired tests of accuracies.

    Methods without a test are named behind it.
    """
    unknown = [name for name, test in found.items() if math.isnan(test.difference.mean)]
    tested = {name: test for name, test in found.items() if name not in unknown}
    if not tested:
        which = unknown[0] if len(unknown) == 1 else f"any of {_listed(unknown)}"
        return f"Whether {which} differs from {baseline} {where} is not known."
    about = f" Not known of {_listed(unknown)}." if unknown else ""
    return f"{_of_tested(tested, baseline, where)}{about}"


def _of_tested(found: Mapping[str, PairedTest], baseline: str, where: str) -> str:
    p = dict(zip(found, holm([test.p for test in found.values()]), strict=True))
    differ = {name: test for name, test in found.items() if p[name] < LEVEL}
    if len(found) == 1:
        ((name, test),) = found.items()
        points = _points(test.difference, 100.0)
        if differ:
            return f"{name} is {_more(test.difference)} often right than {baseline} {where}: {points}."
        return f"No difference found between {name} and {baseline} {where}: {points}{_detectable(found)}."
    if not differ:
        return f"No difference found between {baseline} and the {len(found)} other methods {where}{_detectable(found)}."
    parts = [f"{name} by {_points(test.difference, 100.0)}" for name, test in differ.items()]
    count = f"{len(differ)} of {len(found)} methods {'differs' if len(differ) == 1 else 'differ'}"
    rest = "; no difference found for the others" if len(differ) < len(found) else ""
    return f"{count} from {baseline} {where}: {_listed(parts, 3)}{rest}."


def _tests(study: Study, methods: Sequence[str], baseline: str, column: Column) -> dict[str, PairedTest]:
    """Paired tests of accuracy on a column, by method."""
    metric: Metric = resolve(METRICS, "accuracy", "metric")
    cells = grids(metric.function(measure(study, "mean_logp")))
    theirs = at(cells, baseline, column.members)
    return {m: compare_grids(at(cells, m, column.members), theirs, metric) for m in methods}


def _detectable(found: Mapping[str, PairedTest]) -> str:
    values = [test.detectable for test in found.values() if not math.isnan(test.detectable)]
    if not values:
        return ""
    return f"; a true difference of {short(100 * max(values), 1)} points would be found four times in five"


def _asked(gains: ResultTable) -> Column | None:
    """The column that the sentence is about: the mean over shifts, else the one shift, else the test set."""
    for role in ("oos", "test", "rnd", "extra", "train"):
        columns = [c for c in gains.columns if c.role == role]
        if columns:
            return max(columns, key=lambda c: len(c.members))
    return None


def _where(column: Column) -> str:
    if column.role != "oos":
        return f"on {column.name}"
    count = len(column.members)
    return f"out of distribution ({f'mean of {count} shifts' if count > 1 else short_name(column.members[0][1])})"


def _more(difference: Estimate) -> str:
    return "more" if difference.mean > 0 else "less"


def _points(e: Estimate, factor: float = 1.0) -> str:
    """``+2.1 points [0.4, 3.8]``; ``factor`` makes points of the estimate's unit."""
    shown = f"{short(factor * e.mean, 1, True)} points"
    return shown if math.isnan(e.low) else f"{shown} [{short(factor * e.low, 1)}, {short(factor * e.high, 1)}]"


def _listed(names: Sequence[str], limit: int = NAMED) -> str:
    more = len(names) - limit
    shown = [*names[:limit], f"{more} more"] if more > 0 else list(names)
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _plural(n: int, word: str) -> str:
    return word if n == 1 else f"{word}s"
