"""Tables for a terminal: the headline table and the inspection of a run."""

from rich.table import Table

from innerpo.evaluation.inspect.records import Inspection
from innerpo.evaluation.tables import Headline, format_estimate


def headline_table(table: Headline) -> Table:
    """Return the headline table, a row per model."""
    shown = Table(title=table.title, title_justify="left")
    shown.add_column("method")
    for name in table.columns:
        shown.add_column(name, justify="right")
    for model, by_set in table.cells.items():
        shown.add_row(model, *(format_estimate(by_set[name]) for name in table.columns))
    return shown


def inspection_table(inspection: Inspection) -> Table:
    """Return the table of blocks; a star marks those that the method reads."""
    shown = Table(title=inspection.title, title_justify="left")
    for name in ("block", "along", "across", "cosine", "accuracy (train)", "accuracy before", "accuracy after"):
        shown.add_column(name, justify="right")
    for row in inspection.rows:
        accuracies = (row.accuracy_train, row.accuracy_before, row.accuracy_after)
        shown.add_row(
            f"{'*' if row.read else ''}{row.block}",
            f"{row.along:+.3f}",
            f"{row.across:.4f}",
            f"{row.cosine:.4f}",
            *(f"{a:.3f}" for a in accuracies),
        )
    return shown
