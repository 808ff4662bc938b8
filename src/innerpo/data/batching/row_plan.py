"""Which items share a row of a batch: one item per row, items with a common prompt prefix, or all items packed.

A *batch row* is a row of the batch's tensors. A *prefix group* is a run of items whose prompts begin with the same
tokens; the row holds those tokens once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from innerpo.data.tokens import PromptItem, common_prefix

Layout = Literal["one_row", "packed", "concatenated"]
# Shortest common prefix that is shared, and the longest row that sharing may make: the cost of attention grows with
# the square of the row length.
FEWEST_SHARED, ROW_TOKENS = 8, 512


@dataclass(frozen=True)
class PrefixGroup:
    """Items of one row whose prompts all begin with the same ``shared`` tokens, which the row holds once."""

    items: tuple[PromptItem, ...]
    shared: int = 0

    @property
    def n_tokens(self) -> int:
        """Positions of the row that the group occupies."""
        return sum(i.n_tokens for i in self.items) - self.shared * (len(self.items) - 1)


BatchRow = tuple[PrefixGroup, ...]


def plan_rows(items: Sequence[PromptItem], layout: Layout, row_tokens: int = ROW_TOKENS) -> list[BatchRow]:
    """Return the rows of a batch; items keep their order.

    ``concatenated``: one row per response. ``one_row``: one row per prefix group of neighbouring items, of at most
    ``row_tokens`` tokens, grouped so that the batch costs least. ``packed``: one row for all groups.
    """
    if layout == "concatenated":
        return [(PrefixGroup((replace(i, responses=(r,)),)),) for i in items for r in i.responses]
    neighbours = pairwise(items)
    # Common prefix of neighbouring prompts, without the last token of either: it must predict its own responses.
    common = [min(common_prefix(a.prompt, b.prompt), len(a.prompt) - 1, len(b.prompt) - 1) for a, b in neighbours]
    if layout == "packed":
        return [tuple(_prefix_groups(items, common, sum(i.n_tokens for i in items)))]
    longest = max(i.n_tokens for i in items)
    limits = range(longest + 1, row_tokens + 1, max(1, row_tokens // 16))
    plans = [_prefix_groups(items, common, limit) for limit in (0, *limits, row_tokens)]
    return [(group,) for group in min(plans, key=_cost)]


def _prefix_groups(items: Sequence[PromptItem], common: Sequence[int], limit: int) -> list[PrefixGroup]:
    """Join neighbours greedily into groups of at most ``limit`` tokens while each addition saves more tokens."""
    groups: list[PrefixGroup] = []
    for i, item in enumerate(items):
        if groups:
            group, n = groups[-1], len(groups[-1].items)
            shared = min(common[i - 1], group.shared if n > 1 else common[i - 1])
            joined = PrefixGroup((*group.items, item), shared)
            if shared >= FEWEST_SHARED and shared * n > group.shared * (n - 1) and joined.n_tokens <= limit:
                groups[-1] = joined
                continue
        groups.append(PrefixGroup((item,)))
    return groups


def _cost(groups: Sequence[PrefixGroup]) -> float:
    """Return the cost of a batch with one row per group: its cells, padding included.

    A factor accounts for attention, which makes a cell of a long row dearer (by 10 % at 205 tokens).
    """
    longest = max(g.n_tokens for g in groups)
    return len(groups) * longest * (1.0 + longest / 2048)
