"""The first screen in words: what was compared, and the headline result in one sentence from the statistics."""

import math
from collections.abc import Sequence

import polars as pl

from innerpo.evaluation.comparison import Difference, compare
from innerpo.evaluation.report.cells import short
from innerpo.evaluation.report.strength import baseline_of
from innerpo.evaluation.results import ResultTable
from innerpo.evaluation.statistics import Estimate, holm
from innerpo.evaluation.study import Study

NAMED = 4
"""So many names are listed; the rest are counted."""


def title(study: Study) -> str:
    """Return what the page is about: methods and what they were trained on."""
    methods, sources = (list(dict.fromkeys(study.runs[name].to_list())) for name in ("method", "source"))
    return f"{_listed(methods)} trained on {_listed(sources)}"


def compared(study: Study) -> tuple[tuple[str, str], ...]:
    """Return what was compared, as terms: methods with their seeds, base model, sets, and folders that were left out."""
    runs = study.runs.group_by("method", maintain_order=True).agg(pl.len(), pl.col("seed").n_unique().alias("seeds"))
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
    """Return the headline result: how methods differ from the baseline where no one trained, or a method from its base.

    ``gains`` is the table of gains over the base. Differences of several methods carry Holm's correction.
    """
    column = _asked(gains)
    if column is None:
        return "No policy was scored, so there is nothing to compare."
    methods = [row for row in dict.fromkeys(study.runs["method"].to_list()) if column in gains.rows.get(row, {})]
    where = _where(gains, column)
    if len(methods) < 2:
        return _against_base(methods[0], gains.rows[methods[0]][column].estimate, where)
    baseline = baseline_of(methods)
    others = [m for m in methods if m != baseline]
    found = {m: d for m in others for d in compare(study, m, baseline).differences if d.column == column}
    return _against_baseline(found, baseline, where)


def _against_base(method: str, gain: Estimate, where: str) -> str:
    if math.isnan(gain.low):
        return f"{method} and its base: the difference {where} is {_points(gain)}, and its interval is not known."
    if gain.low > 0 or gain.high < 0:
        more = "more" if gain.mean > 0 else "less"
        return f"{method} is {more} often right than its base {where}: {_points(gain)}."
    return f"No difference found between {method} and its base {where}: {_points(gain)}."


def _against_baseline(found: dict[str, Difference], baseline: str, where: str) -> str:
    """One sentence for one method or a few, and a count for many."""
    corrected = _holm({name: d.p for name, d in found.items()})
    differ = {name: d for name, d in found.items() if corrected[name] < 0.05}
    if len(found) == 1:
        ((name, d),) = found.items()
        if name in differ:
            more = "more" if d.difference.mean > 0 else "less"
            return f"{name} is {more} often right than {baseline} {where}: {_points(d.difference)}."
        return f"No difference found between {name} and {baseline} {where}: {_points(d.difference)}{_detectable([d])}."
    if not differ:
        return f"No difference found between {baseline} and any of {len(found)} other methods {where}{_detectable(list(found.values()))}."
    parts = [f"{name} {_points(d.difference)}" for name, d in differ.items()]
    rest = len(found) - len(differ)
    tail = f"; no difference found for the other {rest}" if rest else ""
    return f"Of {len(found)} methods, {len(differ)} {'differs' if len(differ) == 1 else 'differ'} from {baseline} {where}: {_listed(parts, 3)}{tail}."


def _holm(p: dict[str, float]) -> dict[str, float]:
    """Holm's correction over the methods; a p that is unknown stays unknown."""
    known = {name: value for name, value in p.items() if not math.isnan(value)}
    if not known:
        return p
    import numpy as np

    return p | dict(zip(known, holm(np.array(list(known.values()))).tolist(), strict=True))


def _detectable(found: Sequence[Difference]) -> str:
    values = [d.minimum_detectable for d in found if not math.isnan(d.minimum_detectable)]
    if not values:
        return ""
    return f"; with these data a difference of {short(100 * max(values), 1)} points would be found four times in five"


def _asked(gains: ResultTable) -> str | None:
    """The column that the sentence is about: the mean over shifts, else the shift, else the test set."""
    by_role = {role: [c for c in gains.columns if c.role == role] for role in ("oos", "test", "rnd", "extra", "train")}
    for columns in by_role.values():
        if columns:
            return max(columns, key=lambda c: len(c.members)).name
    return None


def _where(gains: ResultTable, name: str) -> str:
    column = next(c for c in gains.columns if c.name == name)
    if column.role == "oos":
        several = f", mean of {len(column.members)} shifts" if len(column.members) > 1 else f" ({column.members[0][1]})"
        return f"out of distribution{several}"
    return f"on {column.name}"


def _points(e: Estimate) -> str:
    """``+2.1 points [0.4, 3.8]``."""
    shown = f"{short(100 * e.mean, 1, True)} points"
    return shown if math.isnan(e.low) else f"{shown} [{short(100 * e.low, 1)}, {short(100 * e.high, 1)}]"


def _listed(names: Sequence[str], limit: int = NAMED) -> str:
    more = len(names) - limit
    shown = [*names[:limit], f"{more} more"] if more > 0 else list(names)
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _plural(n: int, word: str) -> str:
    return word if n == 1 else f"{word}s"
