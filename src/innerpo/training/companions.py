"""Companions of training pairs with their reference outputs: what training runs the policy on beside the pairs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from innerpo.config.run import RunConfig
from innerpo.data.batching.batch import TokenBatch
from innerpo.data.batching.order import rows_of
from innerpo.data.batching.row_plan import Layout
from innerpo.data.companions import companions
from innerpo.data.shifts import shifts_from
from innerpo.data.sources.places import same_data
from innerpo.data.texts import anchor_items
from innerpo.data.tokens import PromptItem
from innerpo.methods.method import Method
from innerpo.methods.records import CompanionOutputs
from innerpo.model.base import Base
from innerpo.model.context import check_context
from innerpo.model.forward.outputs import SequenceOutputs, StateRequest
from innerpo.model.reference import Reference

log = logging.getLogger(__name__)

ANCHOR = "anchor"


@dataclass(frozen=True)
class CompanionBatch:
    """The companions of a batch's pairs as tokens, in the pairs' order, with the reference's outputs on them."""

    tokens: TokenBatch
    reference: SequenceOutputs
    token_spread: Float[Tensor, " layer"] | None = None

    def pin_memory(self, device: Any = None) -> "CompanionBatch":
        """Return the batch in page-locked memory."""
        spread = None if self.token_spread is None else self.token_spread.pin_memory(device)
        return CompanionBatch(self.tokens.pin_memory(device), self.reference.pin_memory(device), spread)

    def with_policy(self, policy: SequenceOutputs, reference: SequenceOutputs) -> CompanionOutputs:
        """Return what terms read, of outputs that are on one device."""
        spread = None if self.token_spread is None else self.token_spread.to(policy.logps.device)
        return CompanionOutputs(policy, reference, self.tokens.sequence.to(policy.logps.device), spread)


@dataclass(frozen=True)
class Companions:
    """The companions of one kind. ``of_pair`` is the index of each pair's item, -1 for a pair that no step sees."""

    items: Sequence[PromptItem]
    reference: Reference
    of_pair: Sequence[int]

    def item(self, pair: int) -> PromptItem:
        """Return the companion of a pair."""
        return self.items[self.of_pair[pair]]

    def batch(self, pairs: Sequence[int], layout: Layout, pad_id: int) -> CompanionBatch:
        """Return the companions of some pairs."""
        found = [self.of_pair[i] for i in pairs]
        tokens = self.reference.batch(found, layout, pad_id)
        return CompanionBatch(tokens, self.reference.select(found), self.reference.token_spread)


Compute = Callable[[Sequence[PromptItem], StateRequest | None, str], Reference]
"""(items, states, what they are) -> reference outputs on them."""


def companions_of(
    config: RunConfig, base: Base, items: Sequence[PromptItem], method: Method, compute: Compute, seen: Sequence[int]
) -> dict[str, Companions]:
    """Return the companions of the pairs that the method's terms read, by kind; none for a method without.

    ``seen`` are the indices of the pairs that will be trained on; the reference is run on their companions only.
    Raises UserError where a companion cannot be made, or does not fit into the model's positions.
    """
    found = {}
    for kind, request in method.companions.items():
        some, of_pair = companion_items(config, base, items, kind, seen)
        what = _named(config, kind)
        found[kind] = Companions(some, compute(some, request, what), of_pair)
    return found


def companion_items(
    config: RunConfig, base: Base, items: Sequence[PromptItem], kind: str, seen: Sequence[int]
) -> tuple[list[PromptItem], list[int]]:
    """Return the items of the seen pairs' companions, and for each pair the index of its own (-1: not seen).

    Raises UserError where one cannot be made, or does not fit into the model's positions.
    """
    if kind == ANCHOR:
        _warn_of_targets(config)
        tokens = base.pair_tokenizer(config.data)
        every, of_pair = anchor_items(config.method.anchor_data, items, tokens, config.data)
    else:
        every, of_pair = companions(items, kind, config.data.seed), list(range(len(items)))
    used = sorted({of_pair[i] for i in seen})
    place, some = {index: new for new, index in enumerate(used)}, [every[i] for i in used]
    check_context(base.model, some, _named(config, kind))
    return some, [place.get(i, -1) for i in of_pair]


def _named(config: RunConfig, kind: str) -> str:
    return f"{config.method.anchor_data} (anchor)" if kind == ANCHOR else f"{config.data.dataset} ({kind})"


def _warn_of_targets(config: RunConfig) -> None:
    source, texts = config.data.dataset, config.method.anchor_data
    if any(same_data(texts, shift.target) for shift in shifts_from(source)):
        log.warning(f"method.anchor_data={texts}: a target of {source}, which is then no longer out of distribution")


def swapped(items: Sequence[PromptItem]) -> list[PromptItem]:
    """Return the training items with chosen and rejected swapped."""
    return [replace(i, responses=i.responses[::-1], characters=i.characters[::-1]) for i in items]


def rows_with(item: PromptItem, pair: int, companions: Mapping[str, Companions], layout: Layout) -> tuple[int, int]:
    """Return how many rows a pair takes together with its companions, and the tokens of the longest row.

    They run one after another and are kept until the backward pass, so that a micro-batch must have room for all. In
    the packed layout, where all is one row, their tokens are summed.
    """
    rows = [rows_of(item, layout), *(rows_of(c.item(pair), layout) for c in companions.values())]
    if layout == "packed":
        return 1, sum(n for _, n in rows)
    return sum(n for n, _ in rows), max(n for _, n in rows)
