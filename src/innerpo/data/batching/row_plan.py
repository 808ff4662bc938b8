"""Which items stand in one row: each alone, behind a beginning that their prompts share, or packed end to end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from innerpo.data.tokens import PromptItem, common_prefix

Layout = Literal["one_row", "packed", "concatenated"]
# Fewest tokens worth sharing, and the longest row that is made for it: attention's cost grows with a row's square.
FEWEST_SHARED, ROW_TOKENS = 8, 512


@dataclass(frozen=True)
class Group:
    """Items of one row; all their prompts begin with the same ``shared`` tokens, which stand there once."""

    items: tuple[PromptItem, ...]
    shared: int = 0

    @property
    def n_tokens(self) -> int:
        """Positions that the group takes."""
        return sum(i.n_tokens for i in self.items) - self.shared * (len(self.items) - 1)


Row = tuple[Group, ...]


def plan_rows(items: Sequence[PromptItem], layout: Layout, row_tokens: int = ROW_TOKENS) -> list[Row]:
    """Say which items stand in which row, in their order.

    ``concatenated`` has a row a response, ``one_row`` a row for each group of neighbours whose prompts begin alike (of
    at most ``row_tokens`` tokens, as costs least), ``packed`` one row for all groups.
    """
    if layout == "concatenated":
        return [(Group((replace(i, responses=(r,)),)),) for i in items for r in i.responses]
    neighbours = pairwise(items)
    # What two have in common, but for a last token of each prompt, which predicts its own responses.
    common = [min(common_prefix(a.prompt, b.prompt), len(a.prompt) - 1, len(b.prompt) - 1) for a, b in neighbours]
    if layout == "packed":
        return [tuple(_grouped(items, common, sum(i.n_tokens for i in items)))]
    longest = max(i.n_tokens for i in items)
    limits = range(longest + 1, row_tokens + 1, max(1, row_tokens // 16))
    plans = [_grouped(items, common, limit) for limit in (0, *limits, row_tokens)]
    return [(group,) for group in min(plans, key=_cost)]


def _grouped(items: Sequence[PromptItem], common: Sequence[int], limit: int) -> list[Group]:
    """Fill groups with neighbours, each while it has at most ``limit`` tokens and sharing saves more than before."""
    groups: list[Group] = []
    for i, item in enumerate(items):
        if groups:
            group, n = groups[-1], len(groups[-1].items)
            shared = min(common[i - 1], group.shared if n > 1 else common[i - 1])
            joined = Group((*group.items, item), shared)
            if shared >= FEWEST_SHARED and shared * n > group.shared * (n - 1) and joined.n_tokens <= limit:
                groups[-1] = joined
                continue
        groups.append(Group((item,)))
    return groups


def _cost(groups: Sequence[Group]) -> float:
    """Cells of a batch of a row a group, padding included; attention makes those of a long row dearer (by 10 % at 170
    tokens).
    """
    longest = max(g.n_tokens for g in groups)
    return len(groups) * longest * (1.0 + longest / 2048)
