"""Items to tensors, in two layouts with one interface: completion tokens packed, item by item.

Shape names: row, time (a padded row), token (completion tokens of all sequences, packed), seq (responses; those of
one item are neighbours, a pair's are chosen then rejected).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from innerpo.data.tokens import PromptItem

Layout = Literal["one_row", "concatenated"]
PROMPT, SHARED, PADDING = 0, 0, -1
# Fewest tokens worth sharing, and the longest row that is made for it: attention's cost grows with a row's square.
FEWEST_SHARED, ROW_TOKENS = 8, 512


@dataclass(frozen=True)
class TokenBatch:
    """A batch ready for the model.

    ``segments`` says what a position is: -1 padding, 0 prompt, 1.. the response of its row; ``owners`` whose it is:
    -1 padding, 0 shared by all items of the row, 1.. the item of its row. ``predictor`` is the flat (row * time)
    position whose output predicts a completion token; in a one-row layout the first token of every response is
    predicted from the last prompt token.
    """

    input_ids: Int[Tensor, "row time"]
    position_ids: Int[Tensor, "row time"]
    segments: Int[Tensor, "row time"]
    owners: Int[Tensor, "row time"]
    completion: Int[Tensor, " token"]
    predictor: Int[Tensor, " token"]
    targets: Int[Tensor, " token"]
    sequence: Int[Tensor, " token"]
    offset: Int[Tensor, " token"]
    n_tokens: Int[Tensor, " seq"]
    divergence: Int[Tensor, " seq"]
    layout: Layout

    def to(self, device: Any, **kwargs: Any) -> "TokenBatch":
        """Return the batch on a device (accelerate calls this)."""
        moved = {f.name: getattr(self, f.name).to(device, **kwargs) for f in fields(self) if f.name != "layout"}
        return replace(self, **moved)

    @property
    def n_sequences(self) -> int:
        """Number of responses."""
        return int(self.n_tokens.shape[0])


@dataclass(frozen=True)
class _Row:
    """Items of one row; all their prompts begin with the same ``shared`` tokens, which stand there once."""

    items: tuple[PromptItem, ...]
    shared: int = 0

    @property
    def n_tokens(self) -> int:
        return sum(i.n_tokens for i in self.items) - self.shared * (len(self.items) - 1)


def make_batch(items: Sequence[PromptItem], layout: Layout, pad_id: int, row_tokens: int = ROW_TOKENS) -> TokenBatch:
    """Lay items out: ``one_row`` puts a prompt and all its responses in a row, ``concatenated`` a row a response.

    In one_row, neighbouring items whose prompts begin alike (a common instruction) stand in one row of at most
    ``row_tokens`` tokens behind that beginning, which is run once.
    """
    if layout == "one_row":
        rows = _shared_rows(items, row_tokens)
    else:
        rows = [_Row((replace(i, responses=(r,)),)) for i in items for r in i.responses]
    first = [_divergence(i.responses) for i in items for _ in i.responses]
    time = max(r.n_tokens for r in rows)
    shape = (len(rows), time)
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    position_ids = torch.zeros(shape, dtype=torch.long)
    segments, owners = torch.full(shape, PADDING, dtype=torch.long), torch.full(shape, PADDING, dtype=torch.long)
    packed: dict[str, list[int]] = {k: [] for k in ("completion", "predictor", "sequence", "offset")}
    n_tokens: list[int] = []
    for i, row in enumerate(rows):
        ids = list(row.items[0].prompt[: row.shared])
        positions, kinds, own = list(range(row.shared)), [PROMPT] * row.shared, [SHARED] * row.shared
        response_of_row = 0
        for owner, item in enumerate(row.items, start=SHARED + 1):
            n_prompt = len(item.prompt)
            ids += item.prompt[row.shared :]
            positions += range(row.shared, n_prompt)
            kinds += [PROMPT] * (n_prompt - row.shared)
            last = i * time + len(ids) - 1
            for response in item.responses:
                start, n = i * time + len(ids), len(response)
                response_of_row += 1
                packed["completion"] += range(start, start + n)
                packed["predictor"] += [last, *range(start, start + n - 1)]
                packed["sequence"] += [len(n_tokens)] * n
                packed["offset"] += range(n)
                ids += response
                positions += range(n_prompt, n_prompt + n)
                kinds += [response_of_row] * n
                n_tokens.append(n)
            own += [owner] * (len(ids) - len(own))
        for tensor, values in ((input_ids, ids), (position_ids, positions), (segments, kinds), (owners, own)):
            tensor[i, : len(ids)] = torch.tensor(values)
    tensors = {k: torch.tensor(v, dtype=torch.long) for k, v in packed.items()}
    return TokenBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        segments=segments,
        owners=owners,
        targets=input_ids.flatten()[tensors["completion"]],
        n_tokens=torch.tensor(n_tokens),
        divergence=torch.tensor([min(f, n - 1) for f, n in zip(first, n_tokens, strict=True)]),
        layout=layout,
        **tensors,
    )


def _shared_rows(items: Sequence[PromptItem], row_tokens: int) -> list[_Row]:
    """Group neighbours so that the whole batch costs least: tokens run once against padding and longer rows."""
    neighbours = pairwise(items)
    # What two have in common, but for a last token of each prompt, which predicts its own responses.
    common = [min(_common(a.prompt, b.prompt), len(a.prompt) - 1, len(b.prompt) - 1) for a, b in neighbours]
    longest = max(i.n_tokens for i in items)
    limits = range(longest + 1, row_tokens + 1, max(1, row_tokens // 16))
    plans = [_grouped(items, common, limit) for limit in (0, *limits, row_tokens)]
    return min(plans, key=_cost)


def _grouped(items: Sequence[PromptItem], common: Sequence[int], limit: int) -> list[_Row]:
    """Fill rows with neighbours, each as long as it has at most ``limit`` tokens and sharing saves more than before."""
    rows: list[_Row] = []
    for i, item in enumerate(items):
        if rows:
            row, n = rows[-1], len(rows[-1].items)
            shared = min(common[i - 1], row.shared if n > 1 else common[i - 1])
            joined = _Row((*row.items, item), shared)
            if shared >= FEWEST_SHARED and shared * n > row.shared * (n - 1) and joined.n_tokens <= limit:
                rows[-1] = joined
                continue
        rows.append(_Row((item,)))
    return rows


def _cost(rows: Sequence[_Row]) -> float:
    """Cells of the batch, padding included; attention makes those of a long row dearer (by 10 % at 170 tokens)."""
    longest = max(r.n_tokens for r in rows)
    return len(rows) * longest * (1.0 + longest / 2048)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of tokens with which both begin."""
    shortest = min(len(a), len(b))
    return next((n for n in range(shortest) if a[n] != b[n]), shortest)


def attention_mask(
    batch: TokenBatch, window: int | None = None
) -> Bool[Tensor, "row 1 time time"] | Bool[Tensor, "row time"]:
    """True where a query (first time axis) may look at a key.

    A response sees its prompt and itself, never another response or what is another item's alone. ``window`` limits
    the distance in *positions*, as a sliding-window layer does for a response on its own. A padding query sees only
    itself, so that no softmax row is empty. The concatenated layout needs only the usual (row, time) padding mask.
    """
    if batch.layout == "concatenated":
        return batch.segments != PADDING
    q, k = batch.segments[:, :, None], batch.segments[:, None, :]
    time = batch.segments.shape[1]
    order = torch.arange(time, device=q.device)
    q_owner, k_owner = batch.owners[:, :, None], batch.owners[:, None, :]
    own = (k_owner == q_owner) | (k_owner == SHARED)
    allowed = own & ((k == q) | (k == PROMPT)) & (q != PADDING) & (order[:, None] >= order[None, :])
    if window is not None:
        allowed &= batch.position_ids[:, :, None] - batch.position_ids[:, None, :] < window
    allowed |= torch.eye(time, dtype=torch.bool, device=q.device)
    return allowed[:, None]


def _divergence(responses: Sequence[Sequence[int]]) -> int:
    """Index of the first token in which the responses are not all the same."""
    shortest = min(map(len, responses))
    return next((t for t in range(shortest) if len({r[t] for r in responses}) > 1), shortest)
