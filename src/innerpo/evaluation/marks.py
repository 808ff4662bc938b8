"""Marks: what a reader must know before believing a figure, each with its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from innerpo.evaluation.columns import MEMBER
from innerpo.evaluation.grids import once
from innerpo.evaluation.joined import outcomes_by
from innerpo.evaluation.metrics.metric import Measured, measure
from innerpo.evaluation.study import Study
from innerpo.registry import SCORERS

Kind = Literal["did not learn", "incoherent", "length", "scorer-dependent", "overlap"]

SIGNS: Mapping[str, str] = {
    "did not learn": "n",
    "incoherent": "i",
    "length": "l",
    "scorer-dependent": "s",
    "overlap": "o",
}
"""The letter that stands for a mark in a table."""

PERPLEXITY = 2.0
"""Perplexity ratio on chosen above which a model is marked incoherent."""

LENGTH = (0.35, 0.65)
"""Accuracy of the longer-response rule outside of which a set is marked."""

RANKING = ("mean_logp", "sum_logp", "per_character", "implicit", "inner")
"""Scorers whose winners are compared. One that is unknown for a method says nothing of a set."""


@dataclass(frozen=True)
class Mark:
    """A mark on a row of a table on a set; ``row`` is empty where it is a fact of the set, whatever was trained."""

    kind: Kind
    row: str
    source: str
    dataset: str
    split: str
    role: str
    text: str


def find_marks(study: Study, scorer: str = "mean_logp", measured: Measured | None = None) -> list[Mark]:
    """Return the marks of a study, for policies as trained (strength 1).

    did not learn: test accuracy by ``scorer`` not above the base's. incoherent: perplexity ratio on chosen above 2.
    length: the longer-response rule has an accuracy above .65 or below .35. scorer-dependent: the most accurate method
    changes with the scorer. overlap: prompts of the set are, or nearly are, training prompts. ``measured``: the study's
    facts by this scorer, if they are at hand.
    """
    measured = measured or measure(study, scorer)
    pairs, responses = once(measured.pairs), once(measured.responses)
    own = pl.col("strength") == 1.0
    return [
        *_did_not_learn(pairs.filter(own)),
        *_incoherent(responses.filter(own)),
        *_length(pairs),
        *_scorer_dependent(study),
        *_overlap(study),
    ]


def winners(study: Study, scorers: Sequence[str] | None = None) -> pl.DataFrame:
    """Return MEMBER, scorer, winner, accuracy: the policy (strength 1) with the highest accuracy on each set.

    Policies that are equal share it, their names joined by " = ". A scorer that is unknown for one of the policies on a
    set has no row there.
    """
    names = [name for name in RANKING if name in SCORERS] if scorers is None else list(scorers)
    rows = once(outcomes_by(study, names)).filter(pl.col("strength") == 1.0)
    means = rows.group_by([*MEMBER, "row"], maintain_order=True).agg(pl.col(name).mean() for name in names)
    parts = []
    for name in names:
        known = means.filter(pl.col(name).is_not_nan().all().over(MEMBER))
        best = known.filter(pl.col(name) == pl.col(name).max().over(MEMBER))
        winner = best.group_by(MEMBER, maintain_order=True).agg(
            winner=pl.col("row").sort().str.join(" = "), accuracy=pl.col(name).first()
        )
        parts.append(winner.select(*MEMBER, scorer=pl.lit(name), winner="winner", accuracy="accuracy"))
    return pl.concat(parts)


def _mark(kind: Kind, row: str, member: Sequence[Any], text: str) -> Mark:
    source, dataset, split, role = map(str, member)
    return Mark(kind, row, source, dataset, split, role, text)


def _did_not_learn(pairs: pl.DataFrame) -> list[Mark]:
    tests = pairs.filter(pl.col("role") == "test")
    means = tests.group_by(["row", *MEMBER], maintain_order=True).agg(
        pl.col("outcome").mean(), base=pl.col("base_outcome").mean()
    )
    return [
        _mark("did not learn", row, member, f"test accuracy {short(own)} is not above the base's {short(base)}")
        for row, *member, own, base in means.rows()
        if own <= base
    ]


def _incoherent(responses: pl.DataFrame) -> list[Mark]:
    lost = ((pl.col("base_logp") - pl.col("logp")).sum() / pl.col("tokens").sum()).exp()
    ratios = responses.filter("is_chosen").group_by(["row", *MEMBER], maintain_order=True).agg(ratio=lost)
    return [
        _mark("incoherent", row, member, f"perplexity on chosen is {ratio:.2f} times the base's")
        for row, *member, ratio in ratios.rows()
        if ratio > PERPLEXITY
    ]


def _length(pairs: pl.DataFrame) -> list[Mark]:
    longer = ((pl.col("characters_chosen") - pl.col("characters_rejected")).sign() + 1.0) / 2.0
    one = pairs.unique([*MEMBER, "pair"], keep="first", maintain_order=True)
    means = one.group_by(MEMBER, maintain_order=True).agg(rule=longer.mean())
    return [
        _mark("length", "", member, f"the longer response is the chosen one in {short(rule)} of the pairs")
        for *member, rule in means.rows()
        if not LENGTH[0] <= rule <= LENGTH[1]
    ]


def _scorer_dependent(study: Study) -> list[Mark]:
    table = winners(study)
    found = []
    for member, rows in table.group_by(MEMBER, maintain_order=True):
        if rows["winner"].n_unique() > 1:
            said = ", ".join(f"{scorer}: {winner} ({short(a)})" for *_, scorer, winner, a in rows.rows())
            found.append(_mark("scorer-dependent", "", member, f"the winner depends on the scorer: {said}"))
    return found


def _overlap(study: Study) -> list[Mark]:
    sets = study.sets.join(study.runs.select("run", "source"), on="run").filter(pl.col("role") != "train")
    most = sets.group_by(MEMBER, maintain_order=True).agg(
        pl.col("near").max(), pl.col("seen").max(), pl.col("prompts").max()
    )
    return [
        _mark(
            "overlap", "", member, f"{max(near, seen)} of {n} prompts are or nearly are training prompts ({seen} equal)"
        )
        for *member, near, seen, n in most.rows()
        if max(near, seen) > 0
    ]


def short(value: float) -> str:
    """``.632``, ``-.021``, ``1.000``: three decimals, without the zero in front of the point."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"
