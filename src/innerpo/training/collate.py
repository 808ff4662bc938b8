"""Turn indices of pairs into micro-batches: their tokens and the reference's outputs on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from innerpo.data.batching.batch import TokenBatch
from innerpo.data.batching.order import by_prompt, token_batches
from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.methods.notes.notes import PairNotes
from innerpo.model.forward.outputs import SequenceOutputs
from innerpo.model.reference import Reference
from innerpo.training.companions import CompanionBatch, Companions, rows_with


@dataclass(frozen=True)
class PairBatch:
    """Some pairs as tokens, with the reference's outputs and notes on them, and their ids for error messages.

    ``companions`` holds the pairs' companions by kind.
    """

    tokens: TokenBatch
    reference: SequenceOutputs
    ids: list[str]
    notes: PairNotes | None = None
    companions: Mapping[str, CompanionBatch] = field(default_factory=dict)

    def pin_memory(self, device: Any = None) -> "PairBatch":
        """Return the batch in page-locked memory (torch's DataLoader calls this)."""
        notes = None if self.notes is None else self.notes.pin_memory()
        tokens, reference = self.tokens.pin_memory(device), self.reference.pin_memory(device)
        companions = {kind: batch.pin_memory(device) for kind, batch in self.companions.items()}
        return replace(self, tokens=tokens, reference=reference, notes=notes, companions=companions)


@dataclass(frozen=True)
class PairCollator:
    """Turns indices of pairs into micro-batches of similar length, each of at most ``micro_batch_tokens`` padded cells.

    0 = no limit: one micro-batch. The companions of a pair count as its cells.
    """

    items: Sequence[PromptItem]
    reference: Reference
    layout: Layout
    pad_id: int
    micro_batch_tokens: int = 0
    notes: PairNotes | None = None
    companions: Mapping[str, Companions] = field(default_factory=dict)

    def __call__(self, indices: Sequence[int]) -> dict[str, list[PairBatch]]:
        """Return ``{"micro_batches": [...]}``: the Trainer wants a mapping."""
        rows = [rows_with(self.items[i], i, self.companions, self.layout) for i in indices]
        parts = token_batches(rows, self.micro_batch_tokens, self.layout)
        return {"micro_batches": [self._batch(by_prompt(self.items, [indices[k] for k in part])) for part in parts]}

    @property
    def first_block(self) -> int:
        """The block at which passes over the batches begin; 0: at the embedding."""
        return 0 if self.reference.trunk is None else self.reference.trunk.block

    def without_trunk(self) -> "PairCollator":
        """Return the same with batches whose passes begin at the embedding."""
        companions = {
            kind: replace(c, reference=replace(c.reference, trunk=None)) for kind, c in self.companions.items()
        }
        return replace(self, reference=replace(self.reference, trunk=None), companions=companions)

    def _batch(self, indices: Sequence[int]) -> PairBatch:
        return PairBatch(
            tokens=self.reference.batch(indices, self.layout, self.pad_id),
            reference=self.reference.select(indices),
            ids=[self.items[i].pairs[0][2] for i in indices],
            notes=None if self.notes is None else self.notes.select(list(indices)),
            companions={kind: c.batch(indices, self.layout, self.pad_id) for kind, c in self.companions.items()},
        )
