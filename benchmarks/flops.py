"""Floating-point operations that the work itself needs, and what the machine's matrix products reach.

A multiplication and an addition are two operations. Padding, recomputation and a reference pass are not needed by the
loss and are not counted, so a system that does them shows a lower fraction. For one item with p prompt tokens and
responses of n_1 .. n_k tokens (EOS included), T = p + sum n_k useful tokens and C = sum n_k completion tokens:

==================  =====================  ==========================================================================
part                forward pass           one LoRA training step (forward and backward)
==================  =====================  ==========================================================================
linear layers       2 W T                  4 W T: backward goes to the inputs only, W is frozen
LoRA adapters       (none in scoring)      6 A T: forward, gradient of the inputs, gradient of the weights
attention           4 D Q                  12 D Q: q k' and weights v, each with the gradients of both factors
LM head             2 H C                  4 H C: completion positions only, frozen
==================  =====================  ==========================================================================

W: weights of the blocks' linear layers; A: weights of the adapters; H = hidden size x vocabulary; D = layers x query
heads x head size; Q: (query, key) pairs that the causal mask allows, a response seeing its prompt and itself:
p (p + 1) / 2 + sum (n_k p + n_k (n_k + 1) / 2). Element-wise work, norms, softmax and the optimiser are left out, as is
the saving that gradients end at the first block. A sliding window is counted as if it were not there.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from innerpo.data.tokens import PromptItem
from innerpo.model.forward.blocks import text_config
from innerpo.model.numerics.hardware import limit_threads

RANK = 16


@dataclass(frozen=True)
class ModelShape:
    """The sizes that the formula needs; W, A, D and H of the module's docstring."""

    linear: int
    adapter: int
    attention: int
    head: int


def shape_of(model: Any, rank: int = RANK) -> ModelShape:
    """Read the sizes from a base model without adapter; every linear layer but the LM head gets one of this rank."""
    config, head = text_config(model), model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelShape(
        linear=sum(m.in_features * m.out_features for m in linear),
        adapter=sum(rank * (m.in_features + m.out_features) for m in linear),
        attention=config.num_hidden_layers * config.num_attention_heads * head_size,
        head=head.in_features * head.out_features,
    )


def attended(item: PromptItem) -> int:
    """(query, key) pairs that the mask allows, Q of the module's docstring."""
    p = len(item.prompt)
    return p * (p + 1) // 2 + sum(n * p + n * (n + 1) // 2 for n in map(len, item.responses))


def training_flops(shape: ModelShape, items: Sequence[PromptItem]) -> int:
    """Operations that one LoRA step on each of these items needs."""
    return sum(
        (4 * shape.linear + 6 * shape.adapter) * item.n_tokens
        + 12 * shape.attention * attended(item)
        + 4 * shape.head * (item.n_tokens - len(item.prompt))
        for item in items
    )


def scoring_flops(shape: ModelShape, items: Sequence[PromptItem]) -> int:
    """Operations that one forward pass over each of these items needs, without an adapter."""
    return sum(
        2 * shape.linear * item.n_tokens
        + 4 * shape.attention * attended(item)
        + 2 * shape.head * (item.n_tokens - len(item.prompt))
        for item in items
    )


def matmul_rate(dtype: torch.dtype, threads: int, size: int = 0, seconds: float = 2.0) -> dict[str, Any]:
    """Operations per second of square matrix products: the best of as many as fit the time, at least three.

    Sizes double up to ``size`` (8192 on a GPU and 2048 on a CPU where it is 0), but not where a product would take
    longer than ``seconds``, as with bfloat16 on a CPU that emulates it.
    """
    limit_threads(threads)
    largest = size or (8192 if torch.cuda.is_available() else 2048)
    size = min(256, largest)
    took = _product_seconds(size, dtype, 2)
    while size < largest and 8 * took < seconds:
        size = min(2 * size, largest)
        took = _product_seconds(size, dtype, 2)
    count = max(3, min(100, int(seconds / took)))
    return {"size": size, "flops_per_second": 2 * size**3 / _product_seconds(size, dtype, count), "products": count}


def _product_seconds(size: int, dtype: torch.dtype, count: int) -> float:
    """Seconds of the quickest of several products, after one that is not timed."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    found = []
    for _ in range(count + 1):
        synchronise()
        before = time.perf_counter()
        a @ b
        synchronise()
        found.append(time.perf_counter() - before)
    return min(found[1:])


def synchronise() -> None:
    """Wait until the accelerator, if there is one, has done all it was given: a clock read before that is wrong."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
