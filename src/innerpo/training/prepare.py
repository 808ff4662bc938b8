"""From pairs to all that a training needs: tokens, layout, reference, fitted method. The one place where that is done.

Training, doctor, inspection and benchmarks start here, so that what they measure is what training does.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn

from innerpo.config.run import RunConfig
from innerpo.data.batching.row_plan import Layout
from innerpo.data.companions import companions
from innerpo.data.divergence import with_divergence_of
from innerpo.data.pairs import PreferencePair, choose_negatives, shuffle_labels, shuffle_prompts
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.files import cache_root
from innerpo.methods.gradients.fit import fit_gradients
from innerpo.methods.method import Method, build_method, fit_method, fit_notes
from innerpo.methods.notes.notes import PairNotes
from innerpo.model.ablation import Ablation
from innerpo.model.adapters import add_adapter, remove_adapter
from innerpo.model.base import Base
from innerpo.model.context import check_context
from innerpo.model.forward.layout import LayoutChoice, choose_layout
from innerpo.model.forward.outputs import StateRequest
from innerpo.model.forward.sites import read_points
from innerpo.model.identity import fingerprint
from innerpo.model.layer_spec import adapted_layers, resolve_layers
from innerpo.model.reference import Reference, compute_reference
from innerpo.model.trunk import Trunk
from innerpo.model.trunk_check import plan_trunk
from innerpo.training.collate import PairCollator
from innerpo.training.companions import Companions, Compute, companions_of
from innerpo.training.fitted_log import log_fitted, log_unread
from innerpo.training.sampler import first_indices

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A run's pairs as tokens, their layout, the reference's outputs on them, and the method fitted on those.

    The reference is the one that training compares with: under the method's ablation where it has one. ``notes`` are
    the offsets and weights of the pairs, None for a method without. ``companions`` are the further items that training
    runs, by kind. ``fingerprint`` is that of the base's weights (identity.py).
    """

    base: Base
    items: Sequence[PromptItem]
    layout: LayoutChoice
    reference: Reference
    method: Method
    fingerprint: str
    micro_batch_tokens: int = 0
    notes: PairNotes | None = None
    companions: Mapping[str, Companions] = field(default_factory=dict)

    @property
    def pairs(self) -> PairCollator:
        """The pairs with their reference outputs, as a trainer takes them."""
        return PairCollator(
            self.items,
            self.reference,
            self.layout.layout,
            self.base.pad_id,
            self.micro_batch_tokens,
            self.notes,
            self.companions,
        )


def prepare(
    config: RunConfig, base: Base, pairs: Sequence[PreferencePair], *, cache_dir: Path | None = None
) -> Prepared:
    """Prepare the training of a method on the pairs of a training set (all of them: negatives are chosen here).

    ``cache_dir`` is where reference outputs are kept, if not in the config's cache. Raises UserError where no pair is
    left, or where the model lacks the layers or the site that the method reads.
    """
    return prepare_items(config, base, training_items(config, base, pairs), cache_dir=cache_dir)


def training_items(config: RunConfig, base: Base, pairs: Sequence[PreferencePair]) -> list[PromptItem]:
    """Choose negatives, shuffle labels or prompts where a control wants it, and tokenise: one item a pair."""
    data, chosen = config.data, chosen_pairs(config, pairs)
    if data.shuffled_prompts:
        pairs = shuffle_prompts(pairs, data.seed)
    tokens = base.pair_tokenizer(data)
    items = tokens.training_items(chosen)
    if config.method.pool == "first_divergence":
        items = with_divergence_of(items, base.pair_tokenizer(data).scoring_items(pairs))
    counts = tokens.report.line(data.max_prompt_tokens, data.max_response_tokens)
    log.info(f"training pairs of {data.dataset}: {len(items)}; {counts}")
    if not items:
        raise UserError(f"{data.dataset} has no pair left to train on")
    check_context(base.model, items, data.dataset)
    return items


def chosen_pairs(config: RunConfig, pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Choose negatives, and shuffle labels or prompts where a control wants it."""
    data = config.data
    chosen = choose_negatives(pairs, data.negatives, data.seed)
    chosen = shuffle_labels(chosen, data.shuffled_labels, data.seed)
    return shuffle_prompts(chosen, data.seed) if data.shuffled_prompts else chosen


def prepare_items(
    config: RunConfig, base: Base, items: Sequence[PromptItem], *, cache_dir: Path | None = None
) -> Prepared:
    """Do the same for pairs that are tokens already."""
    config.method.check_trained()
    data, cache = config.data, cache_dir or cache_root(config.data.cache_dir)
    method = build_method(config.method, resolve_layers(config.method.layers, base.n_blocks))
    if reads_of(method) is not None:
        read_points(base.model, method.layers, config.method.site)  # refuses a site that the model does not have
    log_unread(config.method)
    layout = choose_layout(base.model, items, base.pad_id, data.layout)
    log.info(f"layout: {layout.layout} ({layout.reason})")
    trunk = _trunk(config, base, items, layout.layout, method)

    def compute(
        some: Sequence[PromptItem], request: StateRequest | None, what: str, trunk: Trunk | None = trunk
    ) -> Reference:
        return _reference(config, base, some, layout.layout, request, cache, what, trunk=trunk)

    def compute_ablated(some: Sequence[PromptItem], request: StateRequest | None, what: str) -> Reference:
        what, ablation = f"{what}, cue ablated", method.ablation
        return _reference(config, base, some, layout.layout, request, cache, what, ablation, trunk)

    reference = _reference_of_pairs(config, items, method.fit_request, compute)
    mismatched = None
    if method.fits_on_mismatched and (request := method.fit_request):
        foreign = companions(items, "mismatch", data.seed)
        check_context(base.model, foreign, f"{data.dataset} (mismatch)")
        request = replace(request, token_states=False)
        mismatched = compute(foreign, request, f"{data.dataset} (mismatch)", None)  # one pass: nothing to share
    with torch.autocast(base.device.type, enabled=False):  # mixed precision is for passes of the model
        seed, pad_id = config.training.seed, base.pad_id
        method = fit_method(method, reference, base.model, seed, layout.layout, pad_id, mismatched)
        notes = fit_notes(method, reference, seed, mismatched)
    log_fitted(method, notes)
    in_training: Compute = compute
    if method.ablation is not None:  # what the method is fitted on is the plain reference, what it trains on is not
        in_training = compute_ablated
        reference = _reference_of_pairs(config, items, method.request, in_training)
    further = companions_of(config, base, items, method, in_training, seen_pairs(config, len(items)))
    weights = fingerprint(base.model)
    return Prepared(base, items, layout, reference, method, weights, data.micro_batch_tokens, notes, further)


def _reference(
    config: RunConfig,
    base: Base,
    items: Sequence[PromptItem],
    layout: Layout,
    request: StateRequest | None,
    cache: Path,
    what: str,
    ablation: Ablation | None = None,
    trunk: Trunk | None = None,
) -> Reference:
    return compute_reference(
        base,
        items,
        layout,
        request,
        batch_size=config.data.batch_size,
        cache_dir=cache,
        what=what,
        # Full fine-tuning has no adapter to switch off, so its reference cannot be run again during training.
        token_limit_bytes=config.data.token_cache_gb * 1e9 if config.model.lora_r else float("inf"),
        ablation=ablation,
        trunk=trunk,
    )


def first_adapted_block(config: RunConfig, n_blocks: int) -> int:
    """Return the first block that training changes, that with an adapter; 0 in a full fine-tuning and for a probe."""
    return 0 if config.method.frozen else min(adapted_layers(config.model.adapt_layers, n_blocks))


def reads_of(method: Method) -> StateRequest | None:
    """Return the states that a method reads or changes in training, fitting and scoring; None for log-probs alone."""
    return method.fit_request or next((r for r in method.companions.values() if r is not None), None)


def _trunk(config: RunConfig, base: Base, items: Sequence[PromptItem], layout: Layout, method: Method) -> Trunk | None:
    first, before = first_adapted_block(config, base.n_blocks), reads_before(config, method, base.n_blocks)
    if before:
        shown = ", ".join(map(str, before))
        log.info(f"layers: blocks {shown} lie before the first adapter (block {first}); their states stay the base's")
    return plan_trunk(base, items, layout, first, reads_of(method), config.data.trunk_cache_gb)


def reads_before(config: RunConfig, method: Method, n_blocks: int) -> list[int]:
    """Return the blocks before the first adapter whose states a method reads.

    Raises UserError where it trains on states and all of them lie there.
    """
    first, reads = first_adapted_block(config, n_blocks), reads_of(method)
    before = [layer for layer in reads.layers if layer < first] if reads is not None else []
    trains_on = [request for request in (method.request, *method.companions.values()) if request is not None]
    if reads is not None and before and len(before) == len(reads.layers) and trains_on:
        raise UserError(
            f"method.layers reads blocks {', '.join(map(str, before))}, and model.adapt_layers adapts none up to there "
            f"(the first is {first}): no gradient would reach the adapter from those states"
        )
    return before


def _reference_of_pairs(
    config: RunConfig, items: Sequence[PromptItem], request: StateRequest | None, compute: Compute
) -> Reference:
    """Reference outputs on the pairs; where no states are read, only on those that the run's steps will see."""
    what = f"{config.data.dataset} (train)"
    seen = seen_pairs(config, len(items))
    if request is not None or len(seen) == len(items):
        return compute(items, request, what)
    log.info(f"reference: only of the {len(seen)} of {len(items)} pairs that {config.training.max_steps} steps see")
    return compute([items[i] for i in seen], request, what).spread_over(items, seen)


def seen_pairs(config: RunConfig, n_pairs: int) -> list[int]:
    """Return the indices of the pairs that the run will train on, in the order of their first step."""
    return first_indices(n_pairs, pairs_per_step(config), config.training.seed, planned_steps(config, n_pairs))


def planned_steps(config: RunConfig, n_pairs: int) -> int:
    """Return how many optimiser steps the run will make."""
    training = config.training
    return training.max_steps or math.ceil(training.epochs * -(-n_pairs // pairs_per_step(config)))


def pairs_per_step(config: RunConfig) -> int:
    """Pairs of one optimiser step, over accumulated batches and processes."""
    processes: int = PartialState().num_processes
    return config.data.batch_size * config.training.gradient_accumulation * processes


@contextmanager
def adapted(
    prepared: Prepared, config: RunConfig, *, cache_dir: Path | None = None
) -> Iterator[tuple[nn.Module, Method]]:
    """Put a fresh adapter on the base and fit the method's gradient edit to it; take the adapter off at the end.

    A frozen method gets the base itself, a full fine-tuning a copy of it.
    """
    base, method = prepared.base, prepared.method
    if config.method.frozen:
        yield base.model, method
        return
    policy = add_adapter(base, config.model, config.training.seed)
    try:
        yield (
            policy,
            fit_gradients(
                method,
                policy,
                base,
                prepared.items,
                prepared.layout.layout,
                batch_size=config.data.batch_size,
                cache_dir=cache_dir or cache_root(config.data.cache_dir),
                seed=config.training.seed,
            ),
        )
    finally:
        remove_adapter(base, policy)
