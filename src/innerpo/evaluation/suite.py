"""Score base and policy on the columns of the headline table, and write what was found."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from innerpo.config.run import RunConfig
from innerpo.data.tokens import PairTokenizer, PromptItem
from innerpo.errors import UserError
from innerpo.evaluation.score import PairScore, score_items, score_rows, write_rows
from innerpo.evaluation.sets import Column
from innerpo.evaluation.tables import Headline, as_markdown, headline
from innerpo.files import cache_root, write_text
from innerpo.methods.inner_reward import InnerReward
from innerpo.methods.steering import steering_vector
from innerpo.model.base import Base
from innerpo.model.forward.layout import LayoutChoice
from innerpo.model.reference import compute_reference
from innerpo.model.steering import steered

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Suite:
    """Columns as tokens, with the base model's rows on them (from the cache where they are known).

    ``steered_rows`` are those of the base under ``eval.steer``; none where that is 0.
    """

    columns: tuple[Column, ...]
    items: Mapping[str, Sequence[PromptItem]]
    base_rows: tuple[PairScore, ...]
    inner: InnerReward | None
    layout: LayoutChoice
    batch_size: int
    steered_rows: tuple[PairScore, ...] = ()


def prepare_suite(
    columns: Sequence[Column],
    base: Base,
    config: RunConfig,
    layout: LayoutChoice,
    inner: InnerReward | None,
) -> Suite:
    """Tokenise the columns and score the base model, before any adapter is on it."""
    data = config.data
    items: dict[str, list[PromptItem]] = {}
    rows: list[PairScore] = []
    for column in columns:
        if not column.pairs:
            continue
        tokens = PairTokenizer(base.tokenizer, data.max_prompt_tokens, data.max_response_tokens)
        found = tokens.scoring_items(column.pairs)
        log.info(
            f"{column.name}: {column.dataset}; {tokens.report.line(data.max_prompt_tokens, data.max_response_tokens)}"
        )
        outputs = compute_reference(
            base,
            found,
            layout.layout,
            None if inner is None else inner.request,
            batch_size=config.eval.batch_size,
            cache_dir=cache_root(data.cache_dir),
            what=f"{column.dataset} ({column.split})",
        ).select(range(len(found)))
        items[column.name] = found
        rows += score_rows(found, outputs, inner, _labels("base", column))
    suite = Suite(tuple(columns), items, tuple(rows), inner, layout, config.eval.batch_size)
    if not config.eval.steer:
        return suite
    if inner is None:
        raise UserError("eval.steer needs directions, and this adapter came without any")
    vector = steering_vector(inner)
    log.info(
        f"steering blocks {', '.join(map(str, vector.blocks))} of the base by {config.eval.steer:g} standard deviations"
    )
    with steered(base.model, vector, config.eval.steer):
        rows = score_policy(suite, base.model, f"steered {config.eval.steer:g}", base.pad_id)
    return replace(suite, steered_rows=tuple(rows))


def score_policy(suite: Suite, policy: Any, name: str, pad_id: int) -> list[PairScore]:
    """Score the policy on every column."""
    rows: list[PairScore] = []
    for column in suite.columns:
        if column.name not in suite.items:
            continue
        items = suite.items[column.name]
        outputs = score_items(
            policy,
            items,
            suite.layout.layout,
            pad_id,
            batch_size=suite.batch_size,
            request=None if suite.inner is None else suite.inner.request,
            what=f"{name} on {column.dataset} ({column.split})",
        )
        rows += score_rows(items, outputs, suite.inner, _labels(name, column))
    return rows


def tabulate(rows: Sequence[PairScore], columns: Sequence[Column], aggregate: str, resamples: int) -> Headline:
    """Return the headline table under one aggregate."""
    sources = {c.name: c.source for c in columns if c.pairs}
    notes = [c.note for c in columns if c.note] + _overlap(columns)
    return headline(rows, sources, aggregate=aggregate, resamples=resamples, notes=notes)


def write_scores(
    folder: Path, rows: Sequence[PairScore], columns: Sequence[Column], config: RunConfig
) -> dict[str, Headline]:
    """Write score rows, and the tables of every aggregate that has values, as json and markdown."""
    write_rows(folder / f"scores.{config.eval.format}", rows)
    aggregates = ["mean_logp", "sum_logp", *(["inner"] if rows[0].chosen_inner == rows[0].chosen_inner else [])]
    tables = {a: tabulate(rows, columns, a, config.eval.bootstrap) for a in aggregates}
    plain = {
        a: {m: {c: asdict(e) for c, e in by.items()} for m, by in t.cells.items()} | {"columns": dict(t.sources)}
        for a, t in tables.items()
    }
    write_text(folder / "headline.json", json.dumps(plain, indent=2) + "\n")
    write_text(folder / "headline.md", "\n".join(as_markdown(t) for t in tables.values()))
    return tables


def _labels(model: str, column: Column) -> dict[str, str]:
    return {"model": model, "column": column.name, "dataset": column.dataset, "split": column.split}


def _overlap(columns: Sequence[Column]) -> list[str]:
    """Prompts that are in the train column as well as in another: a score there is not held-out."""
    clusters = {c.name: {p.cluster for p in c.pairs} for c in columns}
    shared = {name: len(found & clusters.get("train", set())) for name, found in clusters.items() if name != "train"}
    return [f"note: {n} prompts of {name} are also in train" for name, n in shared.items() if n]
