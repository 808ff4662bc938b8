"""Score base, policy and steered base on evaluation sets, each split of a data set once."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch

from innerpo.config.run import RunConfig
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.evaluation.facts import PAIRS, RESPONSES, Scores
from innerpo.evaluation.score import absolute_log_ratio, pair_facts, response_facts, score_items
from innerpo.evaluation.sets import EvaluationSet
from innerpo.files import cache_root
from innerpo.methods.inner_reward import InnerReward
from innerpo.methods.steering import steering_vector
from innerpo.model.base import Base
from innerpo.model.context import check_context
from innerpo.model.forward.layout import LayoutChoice, choose_layout
from innerpo.model.forward.outputs import SequenceOutputs
from innerpo.model.reference import compute_reference
from innerpo.model.steering import steered

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Data set and split."""


@dataclass(frozen=True)
class ScoredSplit:
    """The prompts of one (data set, split), each once, whatever sets they stand in, and the base's outputs on them."""

    items: Sequence[PromptItem]
    reference: SequenceOutputs


@dataclass(frozen=True)
class PreparedScoring:
    """Evaluation sets as tokens, with the base's facts on them.

    ``base`` and ``steered`` hold rows of facts.RESPONSES; ``steered`` are those of the base under ``eval.steer``, no
    rows where that is 0. ``pairs`` holds rows of facts.PAIRS. Models are run in batches of ``batch_size`` prompts.
    """

    sets: tuple[EvaluationSet, ...]
    splits: Mapping[Key, ScoredSplit]
    inner: InnerReward | None
    layout: LayoutChoice
    pad_id: int
    batch_size: int
    base: pl.DataFrame
    steered: pl.DataFrame
    pairs: pl.DataFrame


def tokenise_sets(sets: Sequence[EvaluationSet], base: Base, config: RunConfig) -> dict[Key, Sequence[PromptItem]]:
    """Return the prompts of every (data set, split) with all responses that any set takes from it, as tokens."""
    return {key: _items_of(key, sets, base, config) for key in _keys(sets)}


def prepare_scoring(
    sets: Sequence[EvaluationSet],
    base: Base,
    config: RunConfig,
    inner: InnerReward | None,
    items: Mapping[Key, Sequence[PromptItem]] | None = None,
) -> PreparedScoring:
    """Score the base on the sets, before any adapter is on it; its outputs come from the cache if known.

    ``items`` are the sets as tokens (``tokenise_sets``), if they are at hand. Raises UserError for a pair that cannot
    be scored, for items longer than the model's context, and where ``eval.steer`` is set without directions.
    """
    if config.eval.steer and inner is None:
        raise UserError("eval.steer needs directions, and this adapter came without any")
    items = tokenise_sets(sets, base, config) if items is None else items
    layout = _layout_of(items, base, config)
    splits = {key: _score_base(key, found, base, config, layout, inner) for key, found in items.items()}
    found = {
        key: response_facts(split.items, split.reference, inner, torch.zeros_like(split.reference.logps))
        for key, split in splits.items()
    }
    pairs = _pairs_of_sets(sets, {key: pair_facts(split.items) for key, split in splits.items()})
    prepared = PreparedScoring(
        sets=tuple(sets),
        splits=splits,
        inner=inner,
        layout=layout,
        pad_id=base.pad_id,
        batch_size=config.eval.batch_size,
        base=_label(sets, found, pairs, "base", 0.0),
        steered=pl.DataFrame(schema=RESPONSES),
        pairs=pairs,
    )
    if not config.eval.steer or inner is None:
        return prepared
    vector = steering_vector(inner)
    log.info(
        f"steering blocks {', '.join(map(str, vector.blocks))} of the base by {config.eval.steer:g} standard deviations"
    )
    with steered(base.model, vector, config.eval.steer):
        rows = score_policy(prepared, base.model, f"steered {config.eval.steer:g}", strength=0.0)
    return replace(prepared, steered=rows)


def score_other_base(sets: Sequence[EvaluationSet], prepared: PreparedScoring, base: Base, config: RunConfig) -> Scores:
    """Return the facts of another base model (``eval.ref_model``) on the same sets, with its own tokens, by its name.

    Raises UserError for a pair that its tokens do not keep (responses identical after the cut).
    """
    other = prepare_scoring(sets, base, replace(config, eval=replace(config.eval, steer=0.0)), None)
    return Scores(other.base.with_columns(model=pl.lit(base.name)), prepared.pairs)


def score_policy(prepared: PreparedScoring, policy: Any, model: str, strength: float = 1.0) -> pl.DataFrame:
    """Run a model on every split and return its facts (facts.RESPONSES) under the name ``model``.

    ``strength`` says by how much the adapter's update is multiplied; it is recorded, not applied.
    """
    found = {}
    for (dataset, split), scored in prepared.splits.items():
        outputs = score_items(
            policy,
            scored.items,
            prepared.layout.layout,
            prepared.pad_id,
            batch_size=prepared.batch_size,
            request=None if prepared.inner is None else prepared.inner.request,
            what=f"{model} on {dataset} ({split})",
        )
        ratio = absolute_log_ratio(outputs, scored.reference)
        found[dataset, split] = response_facts(scored.items, outputs, prepared.inner, ratio)
    return _label(prepared.sets, found, prepared.pairs, model, strength)


def score_run(prepared: PreparedScoring, policy: Any, label: str, frozen: bool = False) -> Scores:
    """Return the scores of base, policy and steered base, in this order.

    The policy of a frozen method is the base: its facts are the base's under the method's label.
    """
    if frozen:
        own = prepared.base.with_columns(model=pl.lit(label), strength=pl.lit(1.0))
    else:
        own = score_policy(prepared, policy, label)
    return Scores(pl.concat([prepared.base, own, prepared.steered]), prepared.pairs)


def _keys(sets: Sequence[EvaluationSet]) -> list[Key]:
    """Every (data set, split) that has pairs, once, in the order of the sets."""
    return list(dict.fromkeys((s.dataset, s.split) for s in sets if s.pairs))


def _items_of(key: Key, sets: Sequence[EvaluationSet], base: Base, config: RunConfig) -> Sequence[PromptItem]:
    """Tokenise the pairs that any set takes from a split."""
    (dataset, _), data = key, config.data
    members = [s for s in sets if (s.dataset, s.split) == key]
    pairs = {pair.id: pair for s in members for pair in s.pairs}
    tokens = base.pair_tokenizer(data)
    items = tokens.scoring_items(pairs.values())
    counts = tokens.report.line(data.max_prompt_tokens, data.max_response_tokens)
    log.info(f"{', '.join(s.name for s in members)}: {dataset}; {counts}")
    check_context(base.model, items, dataset)
    return items


def _layout_of(items: Mapping[Key, Sequence[PromptItem]], base: Base, config: RunConfig) -> LayoutChoice:
    """Choose the layout of rows for all sets together."""
    every = [item for found in items.values() for item in found]
    if not every:
        return LayoutChoice("concatenated", "nothing to score")
    layout = choose_layout(base.model, every, base.pad_id, config.data.layout)
    log.info(f"layout for scoring: {layout.layout} ({layout.reason})")
    return layout


def _score_base(
    key: Key,
    items: Sequence[PromptItem],
    base: Base,
    config: RunConfig,
    layout: LayoutChoice,
    inner: InnerReward | None,
) -> ScoredSplit:
    """Get the base's outputs on the items of a split."""
    dataset, split = key
    reference = compute_reference(
        base,
        items,
        layout.layout,
        None if inner is None else inner.request,
        batch_size=config.eval.batch_size,
        cache_dir=cache_root(config.data.cache_dir),
        what=f"{dataset} ({split})",
    )
    return ScoredSplit(items, reference.outputs)


def _pairs_of_sets(sets: Sequence[EvaluationSet], found: Mapping[Key, pl.DataFrame]) -> pl.DataFrame:
    """The pairs of every set that its split's tokens kept, as rows of facts.PAIRS."""
    parts = [pl.DataFrame(schema=PAIRS)]
    for s in sets:
        if s.pairs:
            kept = found[s.dataset, s.split].filter(pl.col("pair").is_in([p.id for p in s.pairs]))
            parts.append(kept.with_columns(set=pl.lit(s.name)).select(list(PAIRS)))
    return pl.concat(parts)


def _label(
    sets: Sequence[EvaluationSet], found: Mapping[Key, pl.DataFrame], pairs: pl.DataFrame, model: str, strength: float
) -> pl.DataFrame:
    """Rows of facts.RESPONSES: each set takes, from the facts of its split, the responses of its pairs."""
    parts = [pl.DataFrame(schema=RESPONSES)]
    for s in sets:
        if not s.pairs:
            continue
        own = pairs.filter(pl.col("set") == s.name)
        used = pl.concat([own.select("prompt", response=side) for side in ("chosen", "rejected")])
        rows = found[s.dataset, s.split].join(used, on=["prompt", "response"], how="semi", maintain_order="left")
        names = {"model": model, "set": s.name, "dataset": s.dataset, "split": s.split}
        labels = {column: pl.lit(text) for column, text in names.items()}
        parts.append(rows.with_columns(strength=pl.lit(strength), **labels).select(list(RESPONSES)))
    return pl.concat(parts)
