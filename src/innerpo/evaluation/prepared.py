"""Evaluation sets made ready for scoring: tokens of each split, once for all its sets, and the base's outputs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from innerpo.config.run import RunConfig
from innerpo.data.divergence import with_divergence_of
from innerpo.data.tokens import PromptItem
from innerpo.evaluation.facts import PAIRS, RESPONSES
from innerpo.evaluation.sets import EvaluationSet
from innerpo.files import cache_root
from innerpo.methods.inner_reward import InnerReward
from innerpo.model.base import Base
from innerpo.model.context import check_context
from innerpo.model.forward.layout import LayoutChoice, choose_layout
from innerpo.model.forward.outputs import SequenceOutputs
from innerpo.model.forward.trunk_states import TrunkStates
from innerpo.model.reference import compute_reference
from innerpo.model.trunk import Trunk

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Data set and split."""


@dataclass(frozen=True)
class ScoredSplit:
    """The prompts of one (data set, split), each once, whatever sets they stand in, and the base's outputs on them.

    ``trunk``: with what passes of a policy on them begin (model/trunk.py); None: at the embedding.
    """

    items: Sequence[PromptItem]
    reference: SequenceOutputs
    trunk: TrunkStates | None = None


@dataclass(frozen=True)
class PreparedScoring:
    """Evaluation sets as tokens, with the base's facts on them.

    ``reference`` is the fingerprint of the base model. ``base`` and ``steered`` hold rows of facts.RESPONSES;
    ``steered`` are those of the base under ``eval.steer``, no rows where that is 0. ``pairs`` holds rows of
    facts.PAIRS. Models are run in batches of ``batch_size`` prompts.
    """

    sets: tuple[EvaluationSet, ...]
    reference: str
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
    return {key: _items_of(key, sets, base, config) for key in keys_of(sets)}


def keys_of(sets: Sequence[EvaluationSet]) -> list[Key]:
    """Every (data set, split) that has pairs, once, in the order of the sets."""
    return list(dict.fromkeys((s.dataset, s.split) for s in sets if s.pairs))


def with_names(
    sets: Sequence[EvaluationSet], items: Mapping[Key, Sequence[PromptItem]]
) -> list[tuple[tuple[str, ...], Sequence[PromptItem]]]:
    """Return the prompts of every split with the names of the sets that take from it."""
    return [(tuple(s.name for s in sets if (s.dataset, s.split) == key), found) for key, found in items.items()]


def _items_of(key: Key, sets: Sequence[EvaluationSet], base: Base, config: RunConfig) -> Sequence[PromptItem]:
    """Tokenise the pairs that any set takes from a split."""
    (dataset, _), data = key, config.data
    members = [s for s in sets if (s.dataset, s.split) == key]
    pairs = {pair.id: pair for s in members for pair in s.pairs}
    tokens = base.pair_tokenizer(data)
    items = tokens.scoring_items(pairs.values())
    if config.eval.negatives == "one" and config.method.pool == "first_divergence":
        every = {pair.id: pair for s in members for pair in s.every}
        items = with_divergence_of(items, base.pair_tokenizer(data).scoring_items(every.values()))
    counts = tokens.report.line(data.max_prompt_tokens, data.max_response_tokens)
    log.info(f"{', '.join(s.name for s in members)}: {dataset}; {counts}")
    check_context(base.model, items, dataset)
    return items


def layout_of(items: Mapping[Key, Sequence[PromptItem]], base: Base, config: RunConfig) -> LayoutChoice:
    """Choose the layout of rows for all sets together."""
    every = [item for found in items.values() for item in found]
    if not every:
        return LayoutChoice("concatenated", "nothing to score")
    layout = choose_layout(base.model, every, base.pad_id, config.data.layout)
    log.info(f"layout for scoring: {layout.layout} ({layout.reason})")
    return layout


def score_base(
    key: Key,
    items: Sequence[PromptItem],
    base: Base,
    config: RunConfig,
    layout: LayoutChoice,
    inner: InnerReward | None,
    trunk: Trunk | None = None,
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
        trunk=trunk,
    )
    return ScoredSplit(items, reference.outputs, reference.trunk)


def pairs_of_sets(sets: Sequence[EvaluationSet], found: Mapping[Key, pl.DataFrame]) -> pl.DataFrame:
    """The pairs of every set that its split's tokens kept, as rows of facts.PAIRS."""
    parts = [pl.DataFrame(schema=PAIRS)]
    for s in sets:
        if s.pairs:
            kept = found[s.dataset, s.split].filter(pl.col("pair").is_in([p.id for p in s.pairs]))
            parts.append(kept.with_columns(set=pl.lit(s.name)).select(list(PAIRS)))
    return pl.concat(parts)


def noted_as_lost(sets: Sequence[EvaluationSet], kept: pl.DataFrame) -> tuple[EvaluationSet, ...]:
    """Return the sets, with a note in those of which no pair is in ``kept`` (rows of facts.PAIRS)."""
    left = set(kept["set"])
    return tuple(_lost(s) if s.pairs and s.name not in left else s for s in sets)


def _lost(s: EvaluationSet) -> EvaluationSet:
    note = f"{s.name}: {s.dataset} not scored: after the cut the responses of all its {len(s.pairs)} pairs are the same"
    log.info(note)
    return replace(s, note=note, fault=s.named)


def label_rows(
    sets: Sequence[EvaluationSet],
    found: Mapping[Key, pl.DataFrame],
    pairs: pl.DataFrame,
    model: str,
    strength: float,
    reference: str,
) -> pl.DataFrame:
    """Rows of facts.RESPONSES: each set takes, from the facts of its split, the responses of its pairs."""
    parts = [pl.DataFrame(schema=RESPONSES)]
    for s in sets:
        if not s.pairs:
            continue
        own = pairs.filter(pl.col("set") == s.name)
        used = pl.concat([own.select("prompt", response=side) for side in ("chosen", "rejected")])
        rows = found[s.dataset, s.split].join(used, on=["prompt", "response"], how="semi", maintain_order="left")
        names = {"model": model, "reference": reference, "set": s.name, "dataset": s.dataset, "split": s.split}
        labels = {column: pl.lit(text) for column, text in names.items()}
        parts.append(rows.with_columns(strength=pl.lit(strength), **labels).select(list(RESPONSES)))
    return pl.concat(parts)
