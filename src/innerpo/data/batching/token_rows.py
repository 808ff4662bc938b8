"""Where the tokens of a batch lie in a table that holds each item's tokens once: its prompt, then its responses."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from innerpo.data.batching.batch import PADDING, SHARED, TokenBatch
from innerpo.data.tokens import PromptItem


def token_rows(items: Sequence[PromptItem], batch: TokenBatch, starts: Sequence[int]) -> Int[Tensor, "row time"]:
    """Return the row of the table that every position of a batch of the items takes; -1 for padding.

    ``starts`` is the row of each item's first token. In every layout: a prompt that stands in several rows takes the
    same rows of the table each time, and a shared prefix those of the first item of its group.
    """
    first_tokens = torch.tensor(list(starts))
    item_of = torch.tensor([k for k, i in enumerate(items) for _ in i.responses])
    lengths = [[len(r) for r in i.responses] for i in items]
    before = torch.tensor([sum(own[:k]) for own in lengths for k in range(len(own))])
    of_response = first_tokens[item_of] + before  # the position ids of a response count its prompt
    segments, owners = batch.segments, batch.owners
    in_row = segments.max(1).values
    first = (in_row.cumsum(0) - in_row)[:, None]  # number of the row's first response
    sequence = (first + segments - 1).clamp(0, len(item_of) - 1)
    owner = torch.where(owners == SHARED, _first_owners(batch), owners)
    item = (item_of[first] + owner - 1).clamp(0, len(items) - 1)
    rows = torch.where(segments > 0, of_response[sequence], first_tokens[item]) + batch.position_ids
    return torch.where(segments == PADDING, -1, rows)


def _first_owners(batch: TokenBatch) -> Int[Tensor, "row time"]:
    """Return, for every position, the number within its row of the first item of its prefix group."""
    groups, nobody = batch.groups.clamp(min=0), int(batch.owners.max()) + 1
    table = torch.full((len(groups), int(groups.max()) + 1), nobody)
    owners = torch.where(batch.owners > SHARED, batch.owners, nobody)
    return table.scatter_reduce(1, groups, owners, "amin").gather(1, groups)
