"""Companions of training pairs: one further item for each pair, made from the tokens of other pairs.

==============  ======================================  ==================================================
kind            prompt                                  responses (first, second)
==============  ======================================  ==================================================
``mismatch``    another pair's                          the pair's own: chosen, rejected
``foreign``     the pair's own                          the pair's chosen, another pair's chosen
``ties``        the pair's own                          two of two other pairs (a control)
==============  ======================================  ==================================================

The augmentation of RRM (Liu et al. 2024, arXiv 2409.13156) has the last two: another pair's response loses against the
pair's own, and two responses of other pairs tie. Other pairs are found by a derangement of the prompts, a random cycle
through all of them: no pair ever gets its own prompt, and each prompt is another's exactly once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from innerpo.data.tokens import Ids, PromptItem
from innerpo.errors import UserError

LEAST_PROMPTS = {"mismatch": 2, "foreign": 2, "ties": 3}
"""The kinds, and the prompts that the training pairs must have."""


def companions(items: Sequence[PromptItem], kind: str, seed: int) -> list[PromptItem]:
    """Return one companion for each item, with one pair (0, 1) and the item's own cluster.

    Responses are moved as tokens, without tokenising them again behind the other prompt. Raises UserError where there
    are too few prompts, or where no other pair has another prompt or response.
    """
    others = _Others.of(items, seed)
    if (n := len(others.order)) < LEAST_PROMPTS[kind]:
        raise UserError(f"{kind} needs training pairs of at least {LEAST_PROMPTS[kind]} prompts, got {n}")
    make: Callable[[PromptItem, _Others], PromptItem] = {"mismatch": _mismatch, "foreign": _foreign, "ties": _tie}[kind]
    return [
        replace(make(item, others), pairs=((0, 1, f"{item.pairs[0][2]} ({kind})"),), cluster=item.cluster)
        for item in items
    ]


@dataclass(frozen=True)
class _Others:
    """The prompts in the order of the cycle, the items of each, and what is drawn at random."""

    order: Sequence[str]
    place: dict[str, int]
    members: dict[str, list[PromptItem]]
    seed: int

    @classmethod
    def of(cls, items: Sequence[PromptItem], seed: int) -> "_Others":
        members: dict[str, list[PromptItem]] = {}
        for item in items:
            members.setdefault(item.cluster, []).append(item)
        order = sorted(members)
        Random(f"{seed}/companions").shuffle(order)
        return cls(order, {cluster: i for i, cluster in enumerate(order)}, members, seed)

    def after(self, item: PromptItem) -> Iterator[PromptItem]:
        """Yield a pair of every other prompt, in the cycle's order from the item's prompt on.

        The k-th pair of a prompt gets the k-th pairs of the others.
        """
        start, rank = self.place[item.cluster], self.members[item.cluster].index(item)
        for step in range(1, len(self.order)):
            found = self.members[self.order[(start + step) % len(self.order)]]
            yield found[rank % len(found)]

    def response(self, item: PromptItem) -> tuple[Ids, int]:
        """Return one of a pair's two responses with its characters, at random and whatever the labels are."""
        both = sorted(zip(item.responses, item.characters, strict=True))
        return both[Random(f"{self.seed}/{item.pairs[0][2]}").randrange(2)]


def _mismatch(item: PromptItem, others: _Others) -> PromptItem:
    found = next((other for other in others.after(item) if other.prompt != item.prompt), None)
    if found is None:
        raise UserError("mismatch needs pairs with different prompts, and all are the same after the cut")
    return replace(item, prompt=found.prompt)


def _foreign(item: PromptItem, others: _Others) -> PromptItem:
    found = next((other for other in others.after(item) if other.responses[0] != item.responses[0]), None)
    if found is None:
        raise UserError("foreign needs pairs with different chosen responses, and all are the same")
    responses = item.responses[0], found.responses[0]
    return replace(item, responses=responses, characters=(item.characters[0], found.characters[0]), divergence=None)


def _tie(item: PromptItem, others: _Others) -> PromptItem:
    drawn = (others.response(other) for other in others.after(item))
    first, characters = next(drawn)
    second = next((other for other in drawn if other[0] != first), None)
    if second is None:
        raise UserError("ties needs pairs with different responses, and all are the same")
    return replace(item, responses=(first, second[0]), characters=(characters, second[1]), divergence=None)
