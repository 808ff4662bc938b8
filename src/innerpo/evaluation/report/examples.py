"""Single examples: which pairs changed from base to policy, by how much, and a choice of them with their texts."""

from typing import Any

import polars as pl

from innerpo.evaluation.joined import joined_pairs
from innerpo.evaluation.report.cells import UNKNOWN, text
from innerpo.evaluation.report.records import Cell, Examples, Table
from innerpo.evaluation.report.texts import Texts, cut, plain
from innerpo.evaluation.report.trained import as_trained
from innerpo.evaluation.study import Study

CHANGED = 24
"""Pairs of a set that are shown because they changed most, in whichever run."""

DRAWN = 12
"""Pairs of a set that are shown besides, drawn at random: those that changed most are no picture of the rest."""

MOST = 432
"""Pairs of all sets together, about; where there are many sets, each has fewer."""

CHARACTERS = 1500
"""A prompt or a response is cut after so many characters."""

PAIR = ["set", "dataset", "split", "pair"]


def margins(study: Study) -> pl.DataFrame:
    """Return a row per run, set and pair of the policies as trained (strength 1), beside the base.

    Columns: run, method, set, dataset, split, pair; before and after (margins of mean log-probability, nats per token,
    chosen less rejected), and flip: 1 where the outcome is better than the base's, -1 where it is worse, else 0. Where
    several data sets have one part in the comparison (the targets of several sources), ``set`` names the data set too.
    """
    joined = joined_pairs(as_trained(study), "mean_logp").filter(pl.col("strength") == 1.0)
    change = (pl.col("outcome") - pl.col("base_outcome")).fill_nan(0.0)
    several = pl.struct("dataset", "split").n_unique().over("set") > 1
    name = pl.when(several).then(pl.format("{}: {}", "set", "dataset")).otherwise("set")
    return joined.select(
        "run",
        "method",
        name.alias("set"),
        *PAIR[1:],
        before=pl.col("base_score_chosen") - pl.col("base_score_rejected"),
        after=pl.col("score_chosen") - pl.col("score_rejected"),
        flip=change.sign().cast(pl.Int64),
    )


def choose(found: pl.DataFrame, changed: int = CHANGED, drawn: int = DRAWN, seed: int = 0) -> pl.DataFrame:
    """Return the rows of a bounded choice of pairs of every set: those that changed most in any run, and a random draw.

    The draw depends on seed and set only. Every run's row of a chosen pair is kept.
    """
    size = (pl.col("after") - pl.col("before")).abs().fill_nan(0.0)
    pairs = found.group_by(PAIR, maintain_order=True).agg(size=size.max()).sort(*PAIR)
    kept = []
    for _, of_set in pairs.group_by("set", maintain_order=True):
        most = of_set.sort("size", descending=True, maintain_order=True).head(changed)
        rest = of_set.join(most, on=PAIR, how="anti", maintain_order="left")
        kept += [most, rest.sample(min(drawn, len(rest)), seed=seed)]
    chosen = pl.concat(kept) if kept else pairs
    return found.join(chosen.select(PAIR), on=PAIR, how="semi", maintain_order="left")


def examples(study: Study, texts: Texts | None) -> Examples | None:
    """Return the examples of a study, or None where no policy was scored. ``texts`` None leaves all texts out."""
    found = margins(study)
    if not len(found):
        return None
    share = min(1.0, MOST / ((CHANGED + DRAWN) * found["set"].n_unique()))
    changed, drawn = (max(1, round(n * share)) for n in (CHANGED, DRAWN))
    chosen = choose(found, changed, drawn)
    sets, runs = (list(dict.fromkeys(chosen[name].to_list())) for name in ("set", "run"))
    keys = list(dict.fromkeys(chosen.select("dataset", "split", "pair").iter_rows()))
    place = {key: i for i, key in enumerate(keys)}
    rows = tuple(
        (
            sets.index(row["set"]),
            runs.index(row["run"]),
            place[row["dataset"], row["split"], row["pair"]],
            row["pair"],
            round(row["before"], 4),
            round(row["after"], 4),
            row["flip"],
        )
        for row in chosen.iter_rows(named=True)
    )
    shown = tuple(None if texts is None else _texts(texts, *key) for key in keys)
    return Examples(
        tuple(sets), tuple(runs), shown, rows, flips(found), _notes(found, len(keys), changed, drawn, texts)
    )


def flips(found: pl.DataFrame) -> Table:
    """Return how many pairs of each set every run gained and lost, of all that were scored; a row per run."""
    counted = found.group_by("run", "set", maintain_order=True).agg(
        gained=(pl.col("flip") > 0).sum(), lost=(pl.col("flip") < 0).sum(), pairs=pl.len()
    )
    by_run: dict[str, dict[str, Cell]] = {}
    sizes: dict[str, int] = {}
    for row in counted.iter_rows(named=True):
        net = row["gained"] - row["lost"]
        by_run.setdefault(row["run"], {})[row["set"]] = Cell(f"+{row['gained']} −{row['lost']}", float(net))
        sizes[row["set"]] = max(sizes.get(row["set"], 0), row["pairs"])
    rows = tuple((text(run), *(cells.get(name, UNKNOWN) for name in sizes)) for run, cells in by_run.items())
    columns = ("run", *(f"{name} ({pairs} pairs)" for name, pairs in sizes.items()))
    return Table("Pairs gained (+) and lost (−) from base to policy, all pairs counted", columns, rows).narrow("set")


def _texts(texts: Texts, dataset: str, split: str, pair: str) -> tuple[str, str, str] | None:
    found = texts.of(dataset, split, pair)
    if found is None:
        return None
    prompt, chosen, rejected = (cut(plain(t), CHARACTERS) for t in (found.prompt, found.chosen, found.rejected))
    return prompt, chosen, rejected


def _notes(found: pl.DataFrame, kept: int, changed: int, drawn: int, texts: Texts | None) -> tuple[str, ...]:
    every = found.select("dataset", "split", "pair").n_unique()
    choice = (
        f"Of the {every} pairs, {kept} are below: of every set the {changed} that changed most in any run, and {drawn} "
        f"drawn at random (seed 0). Texts are cut after {CHARACTERS} characters."
    )
    if texts is None:
        return (choice, "The texts were left out of this page on request.")
    return (choice, *texts.notes)


def rows_of(examples: Examples) -> list[dict[str, Any]]:
    """Return the rows of examples with names in place of indices."""
    names = ("pair", "before", "after", "flip")
    return [
        {"set": examples.sets[row[0]], "run": examples.runs[row[1]], "texts": examples.texts[row[2]]}
        | dict(zip(names, row[3:], strict=True))
        for row in examples.rows
    ]
