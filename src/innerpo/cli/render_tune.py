"""What a search found, for a terminal."""

import math

from rich.markup import escape
from rich.table import Table

from innerpo.experiments.tuning.outcome import Tuned, budget_text, objective_text
from innerpo.experiments.tuning.request import BEST, REPORT


def trials_table(found: Tuned) -> Table:
    """Return every trial with its values and what it reached; the best in bold."""
    names = list(found.request.space)
    table = Table()
    for name in ("trial", *(name.rpartition(".")[2] for name in names), "value", "accuracy", "drift", "state", "s"):
        table.add_column(name, justify="left" if name == "state" else "right")
    for trial in found.trials:
        numbers = [f"{trial.params[name]:.3g}" for name in names]
        measured = ["" if math.isnan(v) else f"{v:.3f}" for v in (trial.value, trial.accuracy, trial.drift)]
        cells = [str(trial.number), *numbers, *measured, escape(trial.state), f"{trial.seconds:.0f}"]
        table.add_row(*cells, style="bold" if trial.number == found.best.number else None)
    return table


def summary(found: Tuned) -> str:
    """Return the measure, the budget, the best against the start, and how to train with it."""
    best, start, method = found.best, found.start, found.request.config.method_label
    shares = ", ".join(f"{name} {share:.2f}" for name, share in found.importance.items())
    lines = [
        f"measured: {objective_text(found.request)}",
        f"budget: {budget_text(found)}",
        f"best: trial {best.number} with {best.value:.3f}; trial 0, the values to start from, {start.value:.3f}",
        *([f"importance: {shares}"] if shares else []),
        f"page: {found.folder / REPORT}",
        f"train with it: innerpo train {method} --config={found.folder / BEST}",
    ]
    return "\n".join(lines)
