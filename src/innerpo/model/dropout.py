"""Make a model's forward pass deterministic in training mode, and check that it is."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from innerpo.errors import UserError
from innerpo.model.numerics.half_matmul import float32_matmul

# Attributes that hold a probability of dropping something, or the width of a router's training noise.
PROBABILITY = re.compile(r"drop|^(input_)?jitter_noise$")
PROBE_TOKENS = 16
# Two forward passes of the same model may differ by rounding on accelerators, whose kernels sum in any order.
ROUNDING_STEPS = 64
# Buffers up to this size are restored after the check (running statistics); larger ones hold weights.
SMALL_BUFFER = 100_000


def switch_off_dropout(model: nn.Module) -> None:
    """Set every dropout probability to 0, and check that training mode is then deterministic.

    DPO compares the policy in training mode with a reference in evaluation mode, so the base must not be random (TRL
    switches dropout off as well). Modules ``nn.Dropout`` and every float attribute whose name contains "drop" are set
    to 0 (OPT, XGLM, BioGPT and GPTBigCode keep it as ``self.dropout``, ``layerdrop`` and others). Then two short
    forward passes in training mode are compared. Raises UserError, with the names of the modules, if they differ.

    The model's mode, its small buffers and torch's random state are afterwards as before.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.AlphaDropout | nn.FeatureAlphaDropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and value != 0.0 and PROBABILITY.search(name):
                setattr(module, name, 0.0)
    _check_deterministic(model)


@torch.no_grad()
def _check_deterministic(model: Any) -> None:
    device = model.get_input_embeddings().weight.device
    n_words = int(model.get_input_embeddings().weight.shape[0])
    tokens = (torch.arange(PROBE_TOKENS, device=device) * 7919 + 11)[None] % n_words
    modes = {module: module.training for module in model.modules()}
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), _buffers_kept(model), float32_matmul(model):
        try:
            model.train()
            first, second = (model(input_ids=tokens, use_cache=False).logits for _ in range(2))
            if not _agree(first, second):
                names = ", ".join(_random_modules(model, tokens)) or "which ones could not be found out"
                raise UserError(
                    f"{type(model).__name__} is random in training mode though its dropout is 0 (modules: {names}); "
                    "set their probabilities to 0 in its config.json, or use another base model"
                )
        finally:
            for module, mode in modes.items():
                module.training = mode


def _agree(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs are equal to the bit or, on accelerators, but for rounding."""
    if torch.equal(a, b):
        return True
    if a.device.type == "cpu" or a.shape != b.shape or not a.is_floating_point():
        return False
    limit = ROUNDING_STEPS * torch.finfo(a.dtype).eps * float(a.abs().max())
    return bool((a - b).abs().max() <= limit)


def _random_modules(model: nn.Module, tokens: Tensor) -> list[str]:
    """Return the names of the innermost modules whose outputs differ between two passes though their inputs agree."""
    seen: dict[str, list[tuple[list[Tensor], list[Tensor]]]] = {}

    def hook_for(name: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tensors = [[t.clone() for t in _tensors(x)] for x in ((args, kwargs), output)]
            seen.setdefault(name, []).append((tensors[0], tensors[1]))

        return hook

    handles = [m.register_forward_hook(hook_for(n), with_kwargs=True) for n, m in model.named_modules() if n]
    try:
        for _ in range(2):
            model(input_ids=tokens, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    random = []
    for name, calls in seen.items():
        half = len(calls) // 2
        for (inputs, outputs), (inputs2, outputs2) in zip(calls[:half], calls[half:], strict=False):
            if _all_agree(inputs, inputs2) and not _all_agree(outputs, outputs2):
                random.append(name)
                break
    return [name for name in random if not any(other.startswith(f"{name}.") for other in random)][:5]


def _all_agree(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(_agree, a, b))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists, dicts and transformers' outputs."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _tensors(inner)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore the model's buffers afterwards: replaced ones by the tensor itself, small ones also by value."""
    before = [
        (module, name, buffer, buffer.clone() if buffer.numel() <= SMALL_BUFFER else None)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            if value is not None and not torch.equal(buffer, value):
                buffer.copy_(value)
            module._buffers[name] = buffer
