"""Items to tensors, in two layouts with one interface: completion tokens packed, item by item.

Shape names: row, time (a padded row), token (completion tokens of all sequences, packed), seq (responses; those of
one item are neighbours, a pair's are chosen then rejected).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from innerpo.data.tokens import PromptItem

Layout = Literal["one_row", "concatenated"]
PROMPT, PADDING = 0, -1


@dataclass(frozen=True)
class TokenBatch:
    """A batch ready for the model.

    ``segments`` says what a position is: -1 padding, 0 prompt, 1.. the response it belongs to. ``predictor`` is the
    flat (row * time) position whose output predicts a completion token; in a one-row layout the first token of every
    response is predicted from the last prompt token.
    """

    input_ids: Int[Tensor, "row time"]
    position_ids: Int[Tensor, "row time"]
    segments: Int[Tensor, "row time"]
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
    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]
    divergence: int


def make_batch(items: Sequence[PromptItem], layout: Layout, pad_id: int) -> TokenBatch:
    """Lay items out: ``one_row`` puts a prompt and all its responses in a row, ``concatenated`` a row a response."""
    rows: list[_Row] = []
    for item in items:
        first = _divergence(item.responses)
        if layout == "one_row":
            rows.append(_Row(item.prompt, item.responses, first))
        else:
            rows.extend(_Row(item.prompt, [r], first) for r in item.responses)
    time = max(len(r.prompt) + sum(map(len, r.responses)) for r in rows)
    shape = (len(rows), time)
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    position_ids = torch.zeros(shape, dtype=torch.long)
    segments = torch.full(shape, PADDING, dtype=torch.long)
    packed: dict[str, list[int]] = {k: [] for k in ("completion", "predictor", "sequence", "offset")}
    n_tokens: list[int] = []
    divergence: list[int] = []
    for i, row in enumerate(rows):
        n_prompt = len(row.prompt)
        ids, positions, kinds = list(row.prompt), list(range(n_prompt)), [PROMPT] * n_prompt
        for k, response in enumerate(row.responses):
            start, n = i * time + len(ids), len(response)
            packed["completion"] += range(start, start + n)
            packed["predictor"] += [i * time + n_prompt - 1, *range(start, start + n - 1)]
            packed["sequence"] += [len(n_tokens)] * n
            packed["offset"] += range(n)
            ids += response
            positions += range(n_prompt, n_prompt + n)
            kinds += [k + 1] * n
            n_tokens.append(n)
            divergence.append(min(row.divergence, n - 1))
        input_ids[i, : len(ids)] = torch.tensor(ids)
        position_ids[i, : len(ids)] = torch.tensor(positions)
        segments[i, : len(ids)] = torch.tensor(kinds)
    tensors = {k: torch.tensor(v, dtype=torch.long) for k, v in packed.items()}
    return TokenBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        segments=segments,
        targets=input_ids.flatten()[tensors["completion"]],
        n_tokens=torch.tensor(n_tokens),
        divergence=torch.tensor(divergence),
        layout=layout,
        **tensors,
    )


def attention_mask(
    batch: TokenBatch, window: int | None = None
) -> Bool[Tensor, "row 1 time time"] | Bool[Tensor, "row time"]:
    """True where a query (first time axis) may look at a key.

    A response sees the prompt and itself, never another response. ``window`` limits the distance in *positions*, as
    a sliding-window layer does for a response on its own. A padding query sees only itself, so that no softmax row is
    empty. The concatenated layout needs only the usual (row, time) padding mask.
    """
    if batch.layout == "concatenated":
        return batch.segments != PADDING
    q, k = batch.segments[:, :, None], batch.segments[:, None, :]
    time = batch.segments.shape[1]
    order = torch.arange(time, device=q.device)
    allowed = ((k == q) | (k == PROMPT)) & (q != PADDING) & (order[:, None] >= order[None, :])
    if window is not None:
        allowed &= batch.position_ids[:, :, None] - batch.position_ids[:, None, :] < window
    allowed |= torch.eye(time, dtype=torch.bool, device=q.device)
    return allowed[:, None]


def _divergence(responses: Sequence[Sequence[int]]) -> int:
    """Index of the first token in which the responses are not all the same."""
    shortest = min(map(len, responses))
    return next((t for t in range(shortest) if len({r[t] for r in responses}) > 1), shortest)


def token_batches(rows: Sequence[tuple[int, int]], most_tokens: int) -> list[list[int]]:
    """Indices in batches of like length, longest first, of at most ``most_tokens`` padded tokens (0 = all in one).

    An item is given as (how many rows it takes, the length of its longest). One that is larger than ``most_tokens`` by
    itself is a batch of its own.
    """
    order = sorted(range(len(rows)), key=lambda i: (-rows[i][1], i))
    batches: list[list[int]] = []
    used = 0  # rows of the last batch
    for i in order:
        n = rows[i][0]
        longest = rows[batches[-1][0]][1] if batches else 0
        if batches and (not most_tokens or (used + n) * longest <= most_tokens):
            batches[-1].append(i)
            used += n
        else:
            batches.append([i])
            used = n
    return batches


def rows_of(item: PromptItem, layout: Layout) -> tuple[int, int]:
    """Return how many rows an item takes in a layout, and the tokens of its longest."""
    prompt, responses = len(item.prompt), [len(r) for r in item.responses]
    return (1, prompt + sum(responses)) if layout == "one_row" else (len(responses), prompt + max(responses))


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of like length, longest first (so that memory runs out at once or not at all)."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
