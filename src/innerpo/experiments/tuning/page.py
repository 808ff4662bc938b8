"""A search as a page: how the best value rose, which fields mattered, and every trial."""

import math
from pathlib import Path

from innerpo.evaluation.report import charts
from innerpo.evaluation.report.provenance import page_versions
from innerpo.evaluation.report.records import Cell, Figure, Page, Section, Series, Table
from innerpo.evaluation.report.render import page_html
from innerpo.evaluation.report.theme import series_of
from innerpo.experiments.tuning.outcome import Tuned, budget_text, objective_text
from innerpo.experiments.tuning.trials import Trial
from innerpo.files import write_atomically


def write_page(found: Tuned, path: Path) -> None:
    """Write the page of a search: one HTML file that opens from disk."""
    html = page_html(build(found, path.name))
    write_atomically(path, lambda p: p.write_text(html, encoding="utf-8", errors="replace"))


def build(found: Tuned, out: str) -> Page:
    """Return the page of a search."""
    config, best, start = found.request.config, found.best, found.start
    values = ", ".join(f"{name} {value:.3g}" for name, value in best.params.items())
    answer = (
        f"The best of {budget_text(found)} reached {best.value:.3f} with {values}; the values to start from reached "
        f"{start.value:.3f}. The best of many is partly luck: measure it anew on a test set."
    )
    compared = (
        ("Method", config.method_label),
        ("Measure", objective_text(found.request)),
        ("Budget", budget_text(found)),
    )
    sections = [_history(found), *([_importance(found)] if found.importance else [])]
    title = f"Tuning of {config.method_label} on {config.data.dataset}"
    return Page(title, answer, compared, sections, versions=page_versions(), out=out)


def _history(found: Tuned) -> Section:
    trial, best = legend = series_of(["trial", "best so far"])
    known = [t for t in found.trials if t.state == "complete"]
    rows = [_row(trial, f"trial {t.number}", t.number, t.value) for t in known]
    top = -math.inf
    for t in known:
        top = max(top, t.value)
        rows.append(_row(best, "best so far", t.number, top))
    figure = Figure(
        "history",
        "Value of each trial",
        "Trials that were pruned or failed are left out; they stand in the table.",
        f"Values of {len(known)} trials; the best rises from {found.start.value:.3f} to {found.best.value:.3f}.",
        charts.lines(rows, legend, "trial", "value on the validation part"),
    )
    return Section("history", "Trials", (), (table(found),), (figure,), legend)


def _row(series: Series, line: str, x: int, y: float) -> dict[str, str | float]:
    return {"series": series.label, "line": line, "x": x, "y": y}


def _importance(found: Tuned) -> Section:
    legend = series_of(["importance"])
    rows = [
        {"field": name, "series": "importance", "mean": share, "low": share, "high": share, "text": f"{share:.2f}"}
        for name, share in found.importance.items()
    ]
    cells = tuple((Cell(name), Cell(f"{share:.2f}", share)) for name, share in found.importance.items())
    figure = Figure(
        "importance",
        "Share of each field",
        "PED-ANOVA: how much a field tells the best tenth of the trials from the rest. Shares of few trials are rough.",
        "; ".join(f"{name} {share:.2f}" for name, share in found.importance.items()),
        charts.forest(rows, legend, "share", category="field"),
        Table("Importance", ("field", "share"), cells),
    )
    return Section("importance", "Which fields mattered", (), (), (figure,), legend)


def table(found: Tuned) -> Table:
    """Return every trial as a row of a table."""
    names = list(found.request.space)
    columns = ("trial", *(name.rpartition(".")[2] for name in names), "value", "accuracy", "drift", "state", "seconds")
    rows = tuple(_cells(trial, names, trial.number == found.best.number) for trial in found.trials)
    notes = ("Trial 0 has the values to start from.", *(f"{t.name}: {t.error}" for t in found.trials if t.error))
    return Table("Trials", columns, rows, notes)


def _cells(trial: Trial, names: list[str], best: bool) -> tuple[Cell, ...]:
    numbers = [trial.params[name] for name in names]
    measured = (trial.value, trial.accuracy, trial.drift)
    return (
        Cell(str(trial.number), float(trial.number), best=best),
        *(Cell(f"{v:.3g}", v) for v in numbers),
        *(Cell("" if math.isnan(v) else f"{v:.3f}", None if math.isnan(v) else v, best=best) for v in measured),
        Cell(trial.state),
        Cell(f"{trial.seconds:.0f}", trial.seconds),
    )
