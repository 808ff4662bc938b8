"""Which modules an adapter on all linear maps leaves out, and which large weights then have no adapter."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from innerpo.model.forward.blocks import decoder_blocks, language_model

log = logging.getLogger(__name__)

# Share of a model's parameters from which a weight without adapter is worth a line in the log.
LARGE_SHARE = 0.01
# Families for which peft refuses an adapter on ``out_proj``.
MAMBA = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")


def excluded_from_all_linear(model: Any) -> str | None:
    """Return a regular expression for the linear modules that ``all-linear`` must not adapt; None if there are none.

    These are the modules outside the language model (a vision encoder: text never runs through it), subclasses of
    ``nn.Linear`` that do not return one tensor (the router of Llama 4), which peft cannot wrap, and the output
    projections of Mamba, whose kernels use the weight without calling the module, so that peft refuses them.
    """
    inner = language_model(model)
    inside = {id(module) for module in inner.modules()}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and (id(module) not in inside or _used_by_kernels(model, name) or not _returns_one_tensor(module))
    ]
    # Layers differ in their numbers only: one alternative for all of them.
    patterns = sorted({re.sub(r"\\\.\d+", r"\\.\\d+", re.escape(name)) for name in names})
    return "|".join(patterns) or None


def linear_names(model: Any, blocks: Sequence[int]) -> list[str]:
    """Return the names, within their block, of the linear modules of some blocks: peft adds the block itself."""
    from transformers.pytorch_utils import Conv1D

    inside = [(name, m) for block in blocks for name, m in decoder_blocks(model)[block].named_modules()]
    return sorted({name for name, module in inside if isinstance(module, nn.Linear | Conv1D)})


def _used_by_kernels(model: Any, name: str) -> bool:
    return getattr(model.config, "model_type", "") in MAMBA and name.endswith(".out_proj")


def _returns_one_tensor(module: nn.Linear) -> bool:
    kind = type(module)
    if kind.forward is nn.Linear.forward or kind.__module__.startswith("bitsandbytes"):
        return True
    with torch.no_grad():
        try:
            output: Any = module(module.weight.new_zeros(1, module.in_features))
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False
    return isinstance(output, Tensor) and output.shape == (1, module.out_features)


def weights_without_adapter(policy: Any, blocks: Sequence[int] | None = None) -> dict[str, float]:
    """Return the large weights of an adapted language model that have no adapter, with their share of all parameters.

    ``blocks`` are those that should have one; None: all.

    Names have ``*`` for numbers of layers. The usual cases are experts that are one parameter for all (GPT-OSS), and
    linear modules that peft leaves out where it adapts experts as parameters (Qwen3-Next's shared expert). Embeddings
    and the LM head do not count: ``all-linear`` leaves them out by design.
    """
    inside = {id(p) for p in language_model(policy).parameters()}
    total = sum(p.numel() for p in policy.parameters())
    adapted = {id(p) for m in policy.modules() if hasattr(m, "base_layer") for p in m.base_layer.parameters()}
    ends = [m for m in policy.modules() if isinstance(m, nn.Embedding)] + [policy.get_output_embeddings()]
    if blocks is not None:
        ends += [block for i, block in enumerate(decoder_blocks(policy)) if i not in blocks]
    known = adapted | {id(p) for module in ends if module is not None for p in module.parameters()}
    sizes: dict[str, int] = {}
    for name, p in policy.named_parameters():
        if p.ndim >= 2 and not p.requires_grad and id(p) in inside - known:
            kind = re.sub(r"\.\d+\.", ".*.", name.removeprefix("base_model.model."))
            sizes[kind] = sizes.get(kind, 0) + p.numel()
    return {k: n / total for k, n in sorted(sizes.items(), key=lambda x: -x[1]) if n >= LARGE_SHARE * total}


def log_weights_without_adapter(policy: Any, blocks: Sequence[int] | None = None) -> None:
    """Log one line that names the large weights without adapter in some blocks (None: in all), if there are any."""
    found = weights_without_adapter(policy, blocks)
    if found:
        named = ", ".join(f"{kind} ({share:.0%})" for kind, share in list(found.items())[:4])
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        log.info(f"adapter: none on {named}{more} of all parameters; all-linear in peft leaves these weights frozen")
