"""States that enter the first adapted block, of every token of some items; batches that begin with them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from innerpo.data.batching.batch import Start, TokenBatch
from innerpo.data.batching.token_rows import token_rows
from innerpo.data.tokens import PromptItem

UNKNOWN = -1


def put_tokens(
    table: Float[Tensor, "token hidden"],
    items: Sequence[PromptItem],
    batch: TokenBatch,
    starts: Sequence[int],
    states: Float[Tensor, "row time hidden"],
) -> None:
    """Write the states of a batch of items into a table of tokens, whose rows from ``starts`` on are the items'.

    A prefix that items of a row share stands in the row once, as the first item's; the others get a copy.
    """
    rows = token_rows(items, batch, starts)
    held = rows[rows >= 0]
    table[held] = states[rows >= 0]
    for k, (item, start) in enumerate(zip(items, starts, strict=True)):
        own = held[(held >= start) & (held < start + item.n_tokens)]
        shared = int(own.min()) - start
        if shared:  # neighbours in the batch are neighbours in the row, so that the item before has it by now
            table[start : start + shared] = table[starts[k - 1] : starts[k - 1] + shared]


@dataclass(frozen=True)
class TrunkStates:
    """The base's states that enter block number ``block``, whatever the layout of rows.

    ``starts`` is the row of each item's first token, ``UNKNOWN`` for an item without; an item's prompt is followed by
    its responses. ``forms`` is what each block before returns (Start).
    """

    block: int
    forms: tuple[int, ...]
    starts: Sequence[int]
    states: Float[Tensor, "token hidden"]

    def enter(self, batch: TokenBatch, items: Sequence[PromptItem], indices: Sequence[int]) -> TokenBatch:
        """Let a batch of the items at ``indices`` begin at the block. A batch with an unknown item stays as it is."""
        starts = [self.starts[i] for i in indices]
        if UNKNOWN in starts:
            return batch
        rows = token_rows([items[i] for i in indices], batch, starts)
        states = self.states[rows.clamp(min=0)]
        states[rows < 0] = 0.0
        return replace(batch, start=Start(self.block, states, self.forms))

    def spread_over(self, n_items: int, indices: Sequence[int]) -> "TrunkStates":
        """Return the same for ``n_items`` items, of which those at ``indices`` are these, in that order."""
        starts = [UNKNOWN] * n_items
        for i, start in zip(indices, self.starts, strict=True):
            starts[i] = start
        return replace(self, starts=starts)
