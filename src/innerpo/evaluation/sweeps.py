"""Sweeps: a method on a shift at all its strengths, as arrays of the same seeds and prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from innerpo.evaluation.columns import MEMBER, Member
from innerpo.evaluation.grids import Cells, Grid, grids, on_prompts, on_seeds
from innerpo.evaluation.metrics.metric import measure
from innerpo.evaluation.remembered import remembered
from innerpo.evaluation.study import Study
from innerpo.registry import METRICS, resolve


@dataclass(frozen=True)
class Swept:
    """A method on one shift: by strength, the grids of accuracy on the test set and on the target, and of drift.

    ``grids`` has the names test, oos and drift, each with one grid per strength, of the same seeds and prompts.
    """

    method: str
    source: str
    target: str
    strengths: tuple[float, ...]
    seeds: tuple[int, ...]
    grids: Mapping[str, tuple[Grid, ...]]


@remembered
def sweeps(study: Study, scorer: str = "mean_logp") -> list[Swept]:
    """Return every method on every shift that it was scored on; the base stands at strength 0."""
    measured = measure(study, scorer)
    cells = {m: grids(resolve(METRICS, m, "metric").function(measured)) for m in ("accuracy", "drift")}
    facts = measured.pairs
    policies = (
        facts.filter(pl.col("strength") > 0.0).select("method", "strength", "row").unique().sort("method", "strength")
    )
    sets = facts.select(*MEMBER, "set").unique(MEMBER, keep="first", maintain_order=True)  # one may have two names
    tests = {s: (s, d, p, r) for s, d, p, r, _ in sets.rows() if r == "test"}
    found = []
    for method in facts.filter(pl.col("strength") > 0.0)["method"].unique(maintain_order=True):
        rows = [(0.0, "base"), *policies.filter(pl.col("method") == method).select("strength", "row").rows()]
        for source, dataset, split, role, name in sets.rows():
            if role == "oos" and source in tests:
                target = dataset if name == "oos" else name
                swept = _sweep(cells, rows, tests[source], (source, dataset, split, role))
                if swept is not None:
                    found.append(Swept(method, source, target, *swept))
    return found


def _sweep(
    cells: Mapping[str, Cells], rows: Sequence[tuple[float, str]], test: Member, target: Member
) -> tuple[tuple[float, ...], tuple[int, ...], dict[str, tuple[Grid, ...]]] | None:
    """The strengths of a method on a shift, its seeds, and the grids; None without a policy.

    The seeds are those of full strength (without it, those of all strengths); other strengths that lack one of them are
    left out.
    """
    wanted = {"test": ("accuracy", test), "oos": ("accuracy", target), "drift": ("drift", target)}
    known = [
        (s, [cells[metric][row, member] for metric, member in wanted.values()])
        for s, row in rows
        if all((row, member) in cells[metric] for metric, member in wanted.values())
    ]
    policies = {s: set.intersection(*(set(g.seeds) for g in found)) for s, found in known if s > 0.0}
    if not policies:
        return None
    whole = policies.get(1.0) or set.intersection(*policies.values())  # the seeds; a strength that lacks one goes
    if not whole:
        return None
    seeds, known = tuple(sorted(whole)), [(s, found) for s, found in known if s == 0.0 or whole <= policies[s]]
    columns = zip(*([on_seeds(g, seeds) for g in found] for _, found in known), strict=True)
    return (
        tuple(s for s, _ in known),
        seeds,
        {name: _shared(column) for name, column in zip(wanted, columns, strict=True)},
    )


def _shared(column: Sequence[Grid]) -> tuple[Grid, ...]:
    """Grids on the prompts that all of them have."""
    prompts = sorted(set.intersection(*(set(g.prompts) for g in column)))
    return tuple(on_prompts(g, prompts) for g in column)
