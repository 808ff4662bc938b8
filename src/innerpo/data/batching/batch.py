"""Batches of items as tensors, in three layouts with one interface.

Names of dimensions: row and time (positions of a padded row), token (the completion tokens of all responses, one
after another), seq (responses; those of one item are neighbours, in a pair chosen comes first).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.data.batching.row_plan import ROW_TOKENS, BatchRow, Layout, plan_rows
from innerpo.data.divergence import first_divergence
from innerpo.data.tokens import PromptItem

PROMPT, SHARED, PADDING = 0, 0, -1
# A packed row is padded to a multiple of flex attention's block size: fewer distinct lengths, fewer compiled kernels.
PACKED_MULTIPLE = 128


@dataclass(frozen=True)
class Start:
    """A pass that begins behind the first blocks: ``states`` enter block number ``block``.

    ``forms`` is what each block before it returns: 0 for a state alone, else the length of the tuple that it is in.
    """

    block: int
    states: Float[Tensor, "row time hidden"]
    forms: tuple[int, ...]


@dataclass(frozen=True)
class TokenBatch:
    """A batch ready for the model.

    * ``segments``: what each position holds: -1 padding, 0 prompt, k >= 1 the k-th response of its row.
    * ``owners``: the item of each position: -1 padding, 0 a prompt prefix shared by its group, k >= 1 the k-th item
      of its row.
    * ``groups``: the number of the position's prefix group within its row, from 0; -1 padding.
    * ``completion``: flat position (row * time) of each completion token; ``predictor``: the flat position whose
      output predicts it. In one_row and packed layouts the last prompt token predicts the first token of every
      response.
    * ``targets``: id of each completion token; ``sequence``: its response; ``offset``: its index in that response.
    * ``n_tokens``: completion tokens of each response; ``divergence``: index of its first token in which the
      responses of its prompt differ (data/divergence.py).
    * ``start``: where a forward pass begins; None: at the embedding.
    """

    input_ids: Int[Tensor, "row time"]
    position_ids: Int[Tensor, "row time"]
    segments: Int[Tensor, "row time"]
    owners: Int[Tensor, "row time"]
    groups: Int[Tensor, "row time"]
    completion: Int[Tensor, " token"]
    predictor: Int[Tensor, " token"]
    targets: Int[Tensor, " token"]
    sequence: Int[Tensor, " token"]
    offset: Int[Tensor, " token"]
    n_tokens: Int[Tensor, " seq"]
    divergence: Int[Tensor, " seq"]
    layout: Layout
    start: Start | None = None

    def to(self, device: Any, **kwargs: Any) -> "TokenBatch":
        """Return the batch on a device."""
        return self._each(lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self, device: Any = None) -> "TokenBatch":
        """Return the batch in page-locked memory, from which copies to a GPU are asynchronous."""
        return self._each(lambda tensor: tensor.pin_memory(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "TokenBatch":
        tensors = {f.name: t for f in fields(self) if isinstance(t := getattr(self, f.name), Tensor)}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items()}
        start = None if self.start is None else replace(self.start, states=change(self.start.states))
        return replace(self, **changed, start=start)

    @property
    def n_sequences(self) -> int:
        """Number of responses."""
        return int(self.n_tokens.shape[0])


@dataclass
class _RowCells:
    """The cells of one row while it is built: lists of equal length, and the places of its responses."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    responses: list[tuple[int, int, int]] = field(default_factory=list)
    """Of each response: (index of the last prompt token, index of its first token, number of tokens)."""

    def add(self, tokens: Sequence[int], first_position: int, segment: int, owner: int, group: int) -> None:
        """Append tokens with consecutive position ids from ``first_position``."""
        n = len(tokens)
        self.ids += tokens
        self.positions += range(first_position, first_position + n)
        self.segments += [segment] * n
        self.owners += [owner] * n
        self.groups += [group] * n


def make_batch(items: Sequence[PromptItem], layout: Layout, pad_id: int, row_tokens: int = ROW_TOKENS) -> TokenBatch:
    """Lay items out as tensors.

    ``one_row`` puts a prompt and all its responses into one row, ``concatenated`` each response with its prompt into
    a row, ``packed`` all items into one row. In one_row and packed, neighbouring items with a common prompt prefix (an
    instruction, say) share it: the row holds it once. In one_row such a row has at most ``row_tokens`` tokens.
    """
    rows = [_write(row) for row in plan_rows(items, layout, row_tokens)]
    time = max(len(row.ids) for row in rows)
    if layout == "packed":
        time = -(-time // PACKED_MULTIPLE) * PACKED_MULTIPLE

    def padded(name: str, value: int) -> Tensor:
        return torch.tensor([(cells := getattr(row, name)) + [value] * (time - len(cells)) for row in rows])

    completion: list[int] = []
    predictor: list[int] = []
    n_tokens: list[int] = []
    for i, row in enumerate(rows):
        for last, start, n in row.responses:
            completion += range(i * time + start, i * time + start + n)
            predictor += [i * time + last, *range(i * time + start, i * time + start + n - 1)]
            n_tokens.append(n)
    first = [first_divergence(i) for i in items for _ in i.responses]
    input_ids = padded("ids", pad_id)
    return TokenBatch(
        input_ids=input_ids,
        position_ids=padded("positions", 0),
        segments=padded("segments", PADDING),
        owners=padded("owners", PADDING),
        groups=padded("groups", PADDING),
        completion=torch.tensor(completion),
        predictor=torch.tensor(predictor),
        targets=input_ids.flatten()[completion],
        sequence=torch.tensor([s for s, n in enumerate(n_tokens) for _ in range(n)]),
        offset=torch.tensor([o for n in n_tokens for o in range(n)]),
        n_tokens=torch.tensor(n_tokens),
        divergence=torch.tensor([min(f, n - 1) for f, n in zip(first, n_tokens, strict=True)]),
        layout=layout,
    )


def _write(row: BatchRow) -> _RowCells:
    """Build a row: per group the shared prefix, then for each item the rest of its prompt and its responses."""
    out = _RowCells()
    owner = SHARED
    for number, group in enumerate(row):
        out.add(group.items[0].prompt[: group.shared], 0, PROMPT, SHARED, number)
        for item in group.items:
            owner += 1
            out.add(item.prompt[group.shared :], group.shared, PROMPT, owner, number)
            last = len(out.ids) - 1
            for response in item.responses:
                out.responses.append((last, len(out.ids), len(response)))
                out.add(response, len(item.prompt), len(out.responses), owner, number)
    return out
