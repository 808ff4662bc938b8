"""What the sanity checks run on: a method and one batch of its training pairs, prepared as training does."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from innerpo.config.run import RunConfig
from innerpo.data.batching.batch import TokenBatch, make_batch
from innerpo.data.training_pairs import training_pairs
from innerpo.errors import UserError
from innerpo.files import cache_root
from innerpo.methods.method import LossOutput, Method
from innerpo.methods.notes.notes import PairNotes
from innerpo.methods.records import CompanionOutputs, PairOutputs
from innerpo.model.adapters import check_bare
from innerpo.model.base import Base
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.model.loading import load_base
from innerpo.training.companions import CompanionBatch, companion_items, swapped
from innerpo.training.prepare import Prepared, adapted, prepare

Parameters = list[nn.Parameter]


@dataclass(frozen=True)
class Setup:
    """A method and one batch: all that a check needs to compute the loss again after the parameters moved.

    ``companions`` are those of the pairs, ``swapped`` those of the same pairs with chosen and rejected
    swapped. ``started`` is the batch with a pass that begins behind the shared trunk, where there is one.
    """

    method: Method
    policy: Any
    batch: TokenBatch
    reference: PairOutputs
    parameters: Parameters
    notes: PairNotes | None = None
    companions: Mapping[str, CompanionBatch] = field(default_factory=dict)
    swapped: Mapping[str, CompanionBatch] = field(default_factory=dict)
    started: TokenBatch | None = None

    def outputs(self) -> PairOutputs:
        """Return the policy's outputs for the batch as training has them, with its parameters as they are now."""
        with self.method.policy_while_training(self.policy, self.batch):
            found = sequence_outputs(self.policy, self.batch, self.method.request)
        return PairOutputs.of(found, self.batch, self.method.transform)

    def not_inoculated(self) -> "Setup":
        """Return the same without what only the policy gets, so that a new adapter's outputs are the reference's."""
        return replace(self, method=replace(self.method, config=replace(self.method.config, inoculate=0.0)))

    def loss(self) -> LossOutput:
        """Return the loss of those outputs, with its terms."""
        return self.method.loss(self.outputs(), self.reference, self.notes, self.companion_outputs())

    def companion_outputs(self, swapped: bool = False) -> dict[str, CompanionOutputs]:
        """Return policy's and reference's outputs on the companions of the pairs, or of the pairs swapped."""
        requests = self.method.companions
        with self.method.policy_while_training(self.policy, None):
            return {
                kind: batch.with_policy(sequence_outputs(self.policy, batch.tokens, requests[kind]), batch.reference)
                for kind, batch in (self.swapped if swapped else self.companions).items()
            }


@contextmanager
def set_up(config: RunConfig, base: Base | None = None) -> Iterator[Setup]:
    """Prepare a method as training does, on few pairs, in float32, with nothing cached but the model.

    The adapter is taken off the base at the end.
    """
    config = replace(config, model=replace(config.model, dtype="float32"))
    config = replace(config, method=replace(config.method, frozen=False))  # its terms are checked on an adapter too
    pairs = training_pairs(config)
    base = base or load_base(config.model, cache_root(config.data.cache_dir))
    check_bare(base)
    if base.model.dtype != torch.float32:
        raise UserError(
            f"differences are checked in float32, the base model is in {base.model.dtype}; load it with dtype=float32"
        )
    with TemporaryDirectory() as scratch:
        prepared = prepare(config, base, pairs, cache_dir=Path(scratch))
        with adapted(prepared, config, cache_dir=Path(scratch)) as (policy, fitted):
            policy.eval()
            items, layout = prepared.items[: config.data.batch_size], prepared.layout.layout
            batch, method = make_batch(items, layout, base.pad_id).to(base.device), fitted.to(base.device)
            # A new adapter changes nothing; the same pass, so that the two agree to the last bit.
            with torch.no_grad(), method.reference_while_training(policy):
                reference = PairOutputs.of(sequence_outputs(policy, batch, method.request), batch, method.transform)
            parameters = [p for p in policy.parameters() if p.requires_grad]
            notes = prepared.notes
            here = None if notes is None else notes.select(list(range(len(items)))).to(base.device)
            both = [_companions(prepared, config, policy, method, swap) for swap in (False, True)]
            started = prepared.reference.batch(range(len(items)), layout, base.pad_id).to(base.device)
            yield Setup(method, policy, batch, reference, parameters, here, both[0], both[1], started)


def _companions(
    prepared: Prepared, config: RunConfig, policy: Any, method: Method, swap: bool
) -> dict[str, CompanionBatch]:
    """Return the companions of the first pairs of a batch's size, as those are or swapped; the policy is new."""
    items, base = swapped(prepared.items) if swap else prepared.items, prepared.base
    first = list(range(min(config.data.batch_size, len(items))))
    found = {}
    for kind, request in method.companions.items():
        some, of_pair = companion_items(config, base, items, kind, first)
        tokens = make_batch([some[of_pair[i]] for i in first], prepared.layout.layout, base.pad_id).to(base.device)
        with torch.no_grad(), method.reference_while_training(policy):
            reference = sequence_outputs(policy, tokens, request)
        spread = prepared.companions[kind].reference.token_spread
        found[kind] = CompanionBatch(tokens, reference, None if spread is None else spread.to(base.device))
    return found
