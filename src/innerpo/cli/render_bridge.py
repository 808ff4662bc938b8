"""Tables for a terminal: what another program scored, and how near its log-probabilities are to ours."""

import polars as pl
from rich.table import Table

from innerpo.evaluation.facts import Scores
from innerpo.evaluation.outcomes import pair_outcomes

SCORERS = ("mean_logp", "sum_logp")


def counts_table(scores: Scores) -> Table:
    """Return pairs ranked rightly, by model and set, of mean and of summed log-probability."""
    shown = Table(title="Pairs ranked rightly, a tie counted as one half", title_justify="left")
    for name in ("model", "set", "pairs", *SCORERS):
        shown.add_column(name, justify="left" if name in ("model", "set") else "right")
    outcomes = {name: pair_outcomes(scores, name) for name in SCORERS}
    for model, name in scores.responses.select("model", "set").unique(maintain_order=True).iter_rows():
        own = [o.filter(pl.col("model") == model, pl.col("set") == name)["outcome"] for o in outcomes.values()]
        sums = [float(o.sum()) for o in own]
        shown.add_row(model, name, str(len(own[0])), *(f"{s:g} ({s / len(own[0]):.3f})" for s in sums))
    return shown


def agreement_table(rows: pl.DataFrame) -> Table:
    """Return the distance of each model there from each of the run, nats per token."""
    shown = Table(title="Difference of log-probabilities, nats a token", title_justify="left")
    for name in ("there", "run", "strength", "responses", "difference"):
        shown.add_column(name, justify="left" if name in ("there", "run") else "right")
    for row in rows.iter_rows(named=True):
        cells = (f"{row['strength']:g}", str(row["responses"]), f"{row['difference']:.4f}")
        shown.add_row(row["theirs"], row["ours"], *cells)
    return shown
