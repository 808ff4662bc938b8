"""About how long a run will take, told at its start: one timed forward pass, scaled by tokens."""

import logging
import time
from collections.abc import Iterable, Sequence

import torch

from innerpo.config.run import RunConfig
from innerpo.data.batching.batch import make_batch
from innerpo.data.tokens import PromptItem
from innerpo.methods.method import build_method
from innerpo.model.base import Base, reference_mode
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.training.prepare import adapted_blocks, pairs_per_step, planned_steps, seen_pairs

log = logging.getLogger(__name__)

TRAINING_FACTOR = 3.8
"""Time of a LoRA training step over that of a forward pass on the same tokens (docs/performance.md: 2,450 and 650
tokens/s, SmolLM2-135M, bfloat16 on a CPU)."""
TIMED_ITEMS = 4
SHORTEST = 10.0
"""Seconds below which no estimate is logged."""


def log_estimate(
    config: RunConfig, base: Base, items: Sequence[PromptItem], scored: Iterable[Sequence[PromptItem]]
) -> None:
    """Log about how long reference, training and scoring will take. Nothing for a model that is done in seconds."""
    steps, seen = planned_steps(config, len(items)), seen_pairs(config, len(items))
    mean = sum(item.n_tokens for item in items) / len(items)
    to_score = sum(item.n_tokens for found in scored for item in found)
    method = build_method(config.method, ())
    further = len(method.companions)  # companions have about as many tokens as the pairs
    in_reference = mean * (len(items) * (1 + method.fits_on_mismatched) if config.method.reads_states else len(seen))
    in_reference += further * mean * len(seen)
    per_step = mean * (1 + further) * pairs_per_step(config)
    in_training = 0.0 if config.method.frozen else per_step * steps * TRAINING_FACTOR
    share = 1.0 - min(adapted_blocks(config, base), default=0) / base.n_blocks  # of the blocks, behind the shared trunk
    in_training *= share
    passes = 1 + share * len(set(config.eval.strengths) - {0.0})  # the base, and the policy at each strength
    rate = forward_rate(base, items)
    seconds = {"reference": in_reference / rate, "training": in_training / rate, "scoring": passes * to_score / rate}
    if sum(seconds.values()) > SHORTEST:
        shown = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items() if value)
        log.info(f"estimated time: {shown} ({rate:.0f} tokens/s in a timed forward pass; what is cached costs nothing)")


def forward_rate(base: Base, items: Sequence[PromptItem]) -> float:
    """Return tokens per second of a forward pass, from a batch of a few items of median length, the faster of two."""
    order = sorted(items, key=lambda item: item.n_tokens)
    middle = max(0, len(order) // 2 - TIMED_ITEMS // 2)
    some = order[middle : middle + TIMED_ITEMS]
    batch = make_batch(some, "concatenated", base.pad_id).to(base.device)
    seconds = []
    for _ in range(2):  # the first pass may pay for set-up that later ones do not
        with reference_mode(base.model):
            _synchronise()
            started = time.perf_counter()
            sequence_outputs(base.model, batch)
            _synchronise()
        seconds.append(time.perf_counter() - started)
    return sum(item.n_tokens for item in some) / max(min(seconds), 1e-6)


def duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
