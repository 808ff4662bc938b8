"""About how long a run will take: a timed forward pass (or, without weights, a matrix product), scaled by tokens."""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from innerpo.config.run import RunConfig
from innerpo.data.batching.batch import make_batch
from innerpo.data.tokens import PromptItem
from innerpo.methods.method import build_method
from innerpo.model.base import Base, reference_mode
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.model.layer_spec import resolve_layers
from innerpo.model.numerics.hardware import multiplies_in_float32
from innerpo.model.trunk_check import first_run_block
from innerpo.training.prepare import first_adapted_block, pairs_per_step, planned_steps, reads_of, seen_pairs

log = logging.getLogger(__name__)

ToScore = Iterable[tuple[Sequence[str], Sequence[PromptItem]]]
"""Prompts to be scored, each with the names of the sets that they are in."""

TRAINING_FACTOR = 3.8
"""Time of a LoRA training step over that of a forward pass on the same tokens (docs/performance.md: 2,450 and 650
tokens/s, SmolLM2-135M, bfloat16 on a CPU)."""
TIMED_ITEMS = 4
PRODUCT_SIZE = 1024
SHARE_OF_PRODUCTS = {"cpu": 0.7, "cuda": 0.4}
"""Rate of a forward pass over that of large matrix products: on a CPU docs/performance.md (scoring: 68 to 91 %
of useful operations); on a GPU an assumption, not measured."""
SHORTEST = 10.0
"""Seconds below which no estimate is logged."""


def forward_tokens(config: RunConfig, items: Sequence[PromptItem], scored: ToScore, n_blocks: int) -> dict[str, float]:
    """Return the work of reference, training and scoring, in tokens of a forward pass that take as long.

    Passes of the policy begin behind the shared trunk (model/trunk.py), of ``n_blocks``; what lies between it and the
    first block with an adapter is run without gradients.
    """
    steps, seen = planned_steps(config, len(items)), seen_pairs(config, len(items))
    mean = sum(item.n_tokens for item in items) / len(items)
    layers = resolve_layers(config.method.layers, n_blocks) if config.method.reads_states else ()
    method = build_method(config.method, layers)
    first = first_adapted_block(config, n_blocks)
    start = 0 if config.data.trunk_cache_gb <= 0 else first_run_block(first, reads_of(method))
    further = len(method.companions)  # companions have about as many tokens as the pairs
    in_reference = mean * (len(items) * (1 + method.fits_on_mismatched) if config.method.reads_states else len(seen))
    in_reference += (further + (method.config.ablate > 0)) * mean * len(seen)  # an ablated run has one of its own
    per_step = mean * (1 + further) * pairs_per_step(config)
    factor = TRAINING_FACTOR + config.training.gradient_checkpointing  # one more forward pass
    blocks = (first - start) + (n_blocks - first) * factor
    in_training = 0.0 if config.method.frozen else per_step * steps * blocks / n_blocks
    in_scoring, scored = 0.0, list(scored)
    some = config.eval.at_every_strength([name for names, _ in scored for name in names])
    for names, found in scored:
        policies = 0 if config.method.frozen else n_strengths(config.eval.strengths, bool(set(names) & set(some)))
        # The base, as it is and steered, and the policy at each strength.
        passes = 1 + (config.eval.steer != 0) + policies * (n_blocks - start) / n_blocks
        in_scoring += passes * sum(item.n_tokens for item in found)
    return {"reference": in_reference, "training": in_training, "scoring": in_scoring}


def n_strengths(strengths: Iterable[float], every: bool) -> int:
    """Return at how many strengths the policy is scored on prompts: at ``every`` one but 0, or at 1 alone."""
    wanted = set(strengths) - {0.0}
    return len(wanted if every else wanted & {1.0})


def log_estimate(config: RunConfig, base: Base, items: Sequence[PromptItem], scored: ToScore) -> None:
    """Log about how long reference, training and scoring will take. Nothing for a model that is done in seconds."""
    rate = forward_rate(base, items)
    seconds = {name: tokens / rate for name, tokens in forward_tokens(config, items, scored, base.n_blocks).items()}
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


def rate_of_shape(model: nn.Module, items: Sequence[PromptItem], device: torch.device) -> float:
    """Return about how many tokens a second a forward pass runs at, by a timed matrix product and the model's size."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    answers = sum(len(r) for item in items for r in item.responses) / sum(item.n_tokens for item in items)
    weight = next(p for p in model.parameters() if p.is_floating_point())
    share = SHARE_OF_PRODUCTS.get(device.type, SHARE_OF_PRODUCTS["cuda"])
    per_token = 2 * (linear + answers * int(head.weight.numel()))
    return share * product_rate(weight.dtype, device) / per_token


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return operations per second of a product of square matrices in a data type, the fastest of a few."""
    if multiplies_in_float32(dtype, device):
        dtype = torch.float32
    size = PRODUCT_SIZE if device.type == "cpu" else 8 * PRODUCT_SIZE
    a, seconds = torch.ones(size, size, dtype=dtype, device=device), []
    for _ in range(4):
        _synchronise()
        started = time.perf_counter()
        a @ a
        _synchronise()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / max(min(seconds), 1e-9)


def duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
