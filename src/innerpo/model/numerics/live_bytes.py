"""The most memory that operations hold at a time, counted on tensors of the meta device, which have sizes and no data.

The code that is counted is the code that runs in training, so what autograd keeps, recomputation in checkpointed blocks
and gradients in flight are all in the count. Not in it: what an allocator rounds up, and work buffers inside kernels.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from innerpo.model.forward.logps import CHUNK
from innerpo.model.numerics.half_matmul import HALF_PRODUCTS
from innerpo.model.numerics.hardware import CPU_UNITS


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make while they are referenced; ``peak`` is the most at a time.

    ``known`` are tensors that are counted elsewhere (weights, gradients). ``in_float32``: half-precision products make
    float32 copies of their factors, as on a CPU without units for them.
    """

    def __init__(self, known: Iterable[Tensor] = (), in_float32: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.in_float32 = in_float32
        self._sizes: dict[int, int] = {}
        for tensor in known:
            self._add(tensor, counted=False)

    def _add(self, tensor: Tensor, counted: bool = True) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes() if counted else 0
            self.now += self._sizes[key]
            weakref.finalize(storage, self._remove, key)
        self.peak = max(self.peak, self.now)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it made."""
        made = func(*args, **kwargs or {})
        for value in made if isinstance(made, tuple | list) else (made,):
            if isinstance(value, Tensor):
                self._add(value)
        if self.in_float32 and func in HALF_PRODUCTS and args[-1].dtype in CPU_UNITS:
            copies = sum(4 * factor.numel() for factor in (*args, made))
            self.peak = max(self.peak, self.now + copies)
        return made


@contextmanager
def as_on(device: torch.device, model: Any) -> Iterator[None]:
    """Let a model on the meta device take the paths that it takes on a device, for as long as the body runs.

    The attention of torch keeps its inputs, its output and one number a row there, not the matrix of weights; logits
    come in the device's chunks; and whether the head's output is the model's is read from the config, not tried.
    """
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    changes = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
    head._innerpo_unchanged = all(getattr(config, name, None) in (None, 1, 1.0) for name in changes)
    attention = nn.functional.scaled_dot_product_attention
    CHUNK["meta"] = CHUNK.get(device.type, CHUNK["cuda"])
    nn.functional.scaled_dot_product_attention = _fused_attention  # transformers looks it up at each call
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = attention
        del CHUNK["meta"]


class _FusedAttention(torch.autograd.Function):
    """Has the sizes of a fused attention kernel, and no values."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    out: Tensor = _FusedAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out
