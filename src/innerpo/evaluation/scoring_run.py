"""Score base, policy at its strengths and steered base on evaluation sets, each split of a data set once."""

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from innerpo.config.evaluation import EvalConfig
from innerpo.config.labels import scaled_label
from innerpo.config.run import RunConfig
from innerpo.data.tokens import PromptItem, hash_of_items
from innerpo.errors import UserError
from innerpo.evaluation.applied import check_applied
from innerpo.evaluation.facts import RESPONSES, Scores
from innerpo.evaluation.parts import Parts
from innerpo.evaluation.prepared import (
    Key,
    PreparedScoring,
    ScoredSplit,
    keys_of,
    label_rows,
    layout_of,
    noted_as_lost,
    pairs_of_sets,
    score_base,
    tokenise_sets,
)
from innerpo.evaluation.score import absolute_log_ratio, pair_facts, response_facts, score_items
from innerpo.evaluation.sets import EvaluationSet, set_facts
from innerpo.files import cache_root
from innerpo.methods.inner_reward import InnerReward
from innerpo.methods.steering import steering_vector
from innerpo.model.base import Base
from innerpo.model.cache import content_key
from innerpo.model.identity import environment_key, fingerprint, hash_of_adapter
from innerpo.model.steering import steered
from innerpo.model.strength import at_strength
from innerpo.model.trunk_check import first_changed_block, plan_trunk
from innerpo.progress import joined

log = logging.getLogger(__name__)


def prepare_scoring(
    sets: Sequence[EvaluationSet],
    base: Base,
    config: RunConfig,
    inner: InnerReward | None,
    items: Mapping[Key, Sequence[PromptItem]] | None = None,
    adapted: int = 0,
) -> PreparedScoring:
    """Score the base on the sets, before any adapter is on it; its outputs come from the cache if known.

    ``items`` are the sets as tokens (``tokenise_sets``), if they are at hand. ``adapted`` is the first block of the
    policy that has an adapter: what lies before is run once, for all strengths. Raises UserError for a pair that cannot
    be scored, for items longer than the model's context, and where ``eval.steer`` is set without directions.
    """
    if config.eval.steer and inner is None:
        raise UserError("eval.steer needs directions, and this adapter came without any")
    items = tokenise_sets(sets, base, config) if items is None else items
    layout = layout_of(items, base, config)
    every, reads = [item for found in items.values() for item in found], None if inner is None else inner.request
    trunk = plan_trunk(base, every, layout.layout, adapted, reads, config.data.trunk_cache_gb)
    splits = {key: score_base(key, found, base, config, layout, inner, trunk) for key, found in items.items()}
    found = {
        key: response_facts(split.items, split.reference, inner, torch.zeros_like(split.reference.logps))
        for key, split in splits.items()
    }
    pairs = pairs_of_sets(sets, {key: pair_facts(split.items) for key, split in splits.items()})
    reference = fingerprint(base.model) or base.identity  # weights in 4 bits have no fingerprint
    prepared = PreparedScoring(
        sets=noted_as_lost(sets, pairs),
        reference=reference,
        splits=splits,
        inner=inner,
        layout=layout,
        pad_id=base.pad_id,
        batch_size=config.eval.batch_size,
        base=label_rows(sets, found, pairs, "base", 0.0, reference),
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
    return Scores(other.base.with_columns(model=pl.lit(base.name)), prepared.pairs, set_facts(sets))


def score_policy(
    prepared: PreparedScoring, policy: Any, model: str, strength: float = 1.0, parts: Parts | None = None
) -> pl.DataFrame:
    """Run a model on every split and return its facts (facts.RESPONSES) under the name ``model``.

    ``strength`` says by how much the adapter's update is multiplied; it is recorded, not applied. What ``parts`` holds
    already is not computed again, and what is computed is kept there, split by split.
    """
    found = {}
    total = sum(len(split.items) for split in prepared.splits.values())
    with joined(f"scoring {scaled_label(model, strength)}", total) as part:
        for (dataset, split), scored in prepared.splits.items():

            def compute(scored: ScoredSplit = scored, what: str = f"{dataset} ({split})") -> pl.DataFrame:
                return _score_split(prepared, scored, policy, what)

            with part(len(scored.items)):
                found[dataset, split] = (
                    compute() if parts is None else parts.get(_split_id(scored.items), strength, compute)
                )
    return label_rows(prepared.sets, found, prepared.pairs, model, strength, prepared.reference)


def score_run(
    prepared: PreparedScoring,
    policy: Any,
    base: Base,
    label: str,
    options: EvalConfig | None = None,
    parts: Parts | None = None,
    before: Mapping[float, Set[str]] | None = None,
) -> Scores:
    """Return the scores of base, policy and steered base, in this order.

    The policy is scored at the strengths of ``options`` (by default 1) but 0, which is the base, on the sets that are
    to have each; the rows also hold the other strengths that ``parts`` has of the same sets. ``before``: the sets that
    had scores at each strength, which stay even where ``parts`` has none of them.
    A policy that is the base itself (a frozen method) has the base's facts under the method's label. Raises UserError
    where the adapter is not applied, or cannot be scaled.
    """
    splits = list(prepared.splits.values())
    rows = [prepared.base]
    if splits:
        check_applied(policy, base, splits[0].items, prepared.layout.layout, label)
    prepared = _with_fitting_trunk(prepared, policy)
    if policy is base.model:
        rows.append(prepared.base.with_columns(model=pl.lit(label), strength=pl.lit(1.0)))
    else:
        wanted = _wanted(prepared, options or EvalConfig(), parts, before or {})
        sizes = {s: sum(len(split.items) for split in of.splits.values()) for s, of in wanted.items()}
        with joined(f"scoring {label}", sum(sizes.values())) as part:
            for strength, of in wanted.items():
                with part(sizes[strength]), at_strength(policy, strength, base.model):
                    rows.append(score_policy(of, policy, label, strength, parts))
    return Scores(pl.concat([*rows, prepared.steered]), prepared.pairs, set_facts(prepared.sets))


def _wanted(
    prepared: PreparedScoring, options: EvalConfig, parts: Parts | None, before: Mapping[float, Set[str]]
) -> dict[float, PreparedScoring]:
    """Return what is scored at each strength but 0: what is asked for, and the sets that were scored at it before."""
    asked = options.at_every_strength([s.name for s in prepared.sets])
    names: dict[float, set[str]] = {s: set(asked) for s in options.strengths if s != 0.0}
    if 1.0 in names:
        names[1.0] = {s.name for s in prepared.sets}
    if parts is not None:
        for one in prepared.sets:
            for strength in parts.strengths([_split_id(prepared.splits[key].items) for key in keys_of([one])]):
                names.setdefault(strength, set()).add(one.name)
    known = {s.name for s in prepared.sets if s.pairs}
    for strength, sets in before.items():
        if lost := sorted((sets & known) - names.get(strength, set())):
            log.info(f"scored again at strength {strength:g}, since nothing that was kept fits: {', '.join(lost)}")
            names.setdefault(strength, set()).update(lost)
    return {strength: _only(prepared, sorted(names[strength])) for strength in sorted(names)}


def _with_fitting_trunk(prepared: PreparedScoring, policy: Any) -> PreparedScoring:
    """Return what is scored without trunks where the policy differs from its base in a block before their end."""
    first = first_changed_block(policy)
    if not any(split.trunk is not None and first < split.trunk.block for split in prepared.splits.values()):
        return prepared
    log.info(f"trunk: not used in scoring, the policy differs from its base from block {first} on")
    return replace(prepared, splits={key: replace(s, trunk=None) for key, s in prepared.splits.items()})


def _only(prepared: PreparedScoring, names: Sequence[str]) -> PreparedScoring:
    """Return the part that holds some sets; all of it where none are named."""
    if not names:
        return prepared
    sets = tuple(s for s in prepared.sets if s.name in names)
    splits = {key: prepared.splits[key] for key in keys_of(sets)}
    return replace(prepared, sets=sets, splits=splits)


def parts_of(folder: Path, base: Base, config: RunConfig) -> Parts:
    """Return where the facts of a folder's policy are kept, by what its weights are and what computes them."""
    files = hash_of_adapter(folder, cache_root(config.data.cache_dir))
    return Parts(folder, content_key(policy=files, base=base.identity, environment=environment_key(base.model)))


def _score_split(prepared: PreparedScoring, scored: ScoredSplit, policy: Any, what: str) -> pl.DataFrame:
    outputs = score_items(
        policy,
        scored.items,
        prepared.layout.layout,
        prepared.pad_id,
        batch_size=prepared.batch_size,
        request=None if prepared.inner is None else prepared.inner.request,
        what=what,
        trunk=scored.trunk,
    )
    return response_facts(scored.items, outputs, prepared.inner, absolute_log_ratio(outputs, scored.reference))


def _split_id(items: Sequence[PromptItem]) -> str:
    """Identity of what a split's rows depend on beside the model: tokens, prompts and lengths of texts."""
    return content_key(tokens=hash_of_items(items), names=[(item.cluster, item.characters) for item in items])
