"""Run a model over many items in batches of similar length; put the outputs back into the items' order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from innerpo.data.batching.batch import TokenBatch, make_batch
from innerpo.data.batching.order import by_prompt, length_batches
from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.model.forward.outputs import SequenceOutputs, StateRequest, sequence_outputs
from innerpo.model.forward.trunk_states import TrunkStates
from innerpo.progress import track


@dataclass(frozen=True)
class Offsets:
    """Where each item's responses and completion tokens begin, counted over all items; the last entry is the total."""

    sequences: Sequence[int]
    tokens: Sequence[int]

    @classmethod
    def of(cls, items: Sequence[PromptItem]) -> "Offsets":
        """Count the responses and tokens of some items."""
        return cls(
            [0, *accumulate(len(i.responses) for i in items)],
            [0, *accumulate(sum(map(len, i.responses)) for i in items)],
        )

    def sequence_rows(self, indices: Sequence[int]) -> list[int]:
        """Return the responses of some items, as a batch of those items has them."""
        return [s for i in indices for s in range(self.sequences[i], self.sequences[i + 1])]

    def token_rows(self, indices: Sequence[int]) -> list[int]:
        """Return the completion tokens of some items, as a batch of those items has them."""
        return [t for i in indices for t in range(self.tokens[i], self.tokens[i + 1])]


def batches(
    items: Sequence[PromptItem],
    layout: Layout,
    pad_id: int,
    batch_size: int,
    device: torch.device,
    what: str,
    trunk: TrunkStates | None = None,
) -> Iterator[tuple[list[int], TokenBatch]]:
    """Yield (indices of items, their batch on the device) until all items were there once, longest first.

    Of similar length; within a batch in the order of their prompts, so that prompts with a common prefix share a row.
    With a ``trunk`` passes over the batches begin behind it.
    """
    for alike in track(length_batches([i.n_tokens for i in items], batch_size), what):
        indices = by_prompt(items, alike)
        batch = make_batch([items[i] for i in indices], layout, pad_id)
        yield indices, (batch if trunk is None else trunk.enter(batch, items, indices)).to(device)


def passes(
    model: Any,
    items: Sequence[PromptItem],
    layout: Layout,
    pad_id: int,
    *,
    batch_size: int,
    request: StateRequest | None,
    what: str,
    trunk: TrunkStates | None = None,
) -> Iterator[tuple[list[int], SequenceOutputs]]:
    """Yield (indices of items, the model's outputs on them) until all items have been run, longest first."""
    device = next(model.parameters()).device
    for indices, batch in batches(items, layout, pad_id, batch_size, device, what, trunk):
        yield indices, sequence_outputs(model, batch, request)


def collect(
    model: Any,
    items: Sequence[PromptItem],
    layout: Layout,
    pad_id: int,
    *,
    batch_size: int,
    request: StateRequest | None,
    what: str,
    each: Callable[[list[int], SequenceOutputs], None] | None = None,
    trunk: TrunkStates | None = None,
) -> SequenceOutputs:
    """Run the model over all items; return log-probabilities and pooled states on the CPU, in the items' order.

    ``each`` is called with every batch's indices and outputs, for what else is to be kept of them. Passes
    begin behind the ``trunk``, if one is given.
    """
    at, kept = Offsets.of(items), dict[str, Tensor]()
    logps, n_tokens = torch.zeros(at.sequences[-1]), torch.zeros(at.sequences[-1], dtype=torch.long)
    token_logps = torch.zeros(at.tokens[-1])
    options: dict[str, Any] = {"batch_size": batch_size, "request": request, "what": what, "trunk": trunk}
    for indices, out in passes(model, items, layout, pad_id, **options):
        seq = at.sequence_rows(indices)
        logps[seq], n_tokens[seq] = out.logps.cpu(), out.n_tokens.cpu()
        if out.token_logps is not None:
            token_logps[at.token_rows(indices)] = out.token_logps.cpu()
        if out.pooled is not None:
            layers, _, width = out.pooled.shape  # the width is the site's, which need not be the model's
            kept.setdefault("pooled", torch.zeros(layers, len(logps), width))[:, seq] = out.pooled.cpu()
        if each is not None:
            each(indices, out)
    return SequenceOutputs(logps, n_tokens, kept.get("pooled"), token_logps=token_logps)
