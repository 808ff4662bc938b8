"""Which modules an adapter on all linear maps leaves out, and which large weights then have no adapter."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from innerpo.model.forward.blocks import language_model

# Share of a model's parameters from which a weight without adapter is worth a line in the log.
LARGE_SHARE = 0.01


def excluded_from_all_linear(model: Any) -> str | None:
    """Return a regular expression for the linear modules that ``all-linear`` must not adapt; None if there are none.

    These are the modules outside the language model (a vision encoder: text never runs through it), and subclasses of
    ``nn.Linear`` that do not return one tensor (the routers of Llama 4 and Phi-MoE), which peft cannot wrap.
    """
    inner = language_model(model)
    inside = {id(module) for module in inner.modules()}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and (id(module) not in inside or not _returns_one_tensor(module))
    ]
    # Layers differ in their numbers only: one alternative for all of them.
    patterns = sorted({re.sub(r"\\\.\d+", r"\\.\\d+", re.escape(name)) for name in names})
    return "|".join(patterns) or None


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


def weights_without_adapter(policy: Any) -> str:
    """Return a sentence on the large weights of an adapted language model that have no adapter; '' if there are none.

    Experts that are one parameter for all (GPT-OSS, Mixtral in transformers 5) are the usual case. Embeddings and the
    LM head do not count: ``all-linear`` leaves them out by design.
    """
    inside = {id(p) for p in language_model(policy).parameters()}
    total = sum(p.numel() for p in policy.parameters())
    adapted = {id(p) for m in policy.modules() if hasattr(m, "base_layer") for p in m.base_layer.parameters()}
    ends = [policy.get_input_embeddings(), policy.get_output_embeddings()]
    known = adapted | {id(p) for module in ends if module is not None for p in module.parameters()}
    sizes: dict[str, int] = {}
    for name, p in policy.named_parameters():
        if p.ndim >= 2 and not p.requires_grad and id(p) in inside - known:
            kind = re.sub(r"\.\d+\.", ".*.", name.removeprefix("base_model.model."))
            sizes[kind] = sizes.get(kind, 0) + p.numel()
    large = {kind: n for kind, n in sizes.items() if n >= LARGE_SHARE * total}
    if not large:
        return ""
    named = ", ".join(f"{kind} ({n / total:.0%})" for kind, n in sorted(large.items(), key=lambda x: -x[1])[:4])
    more = f" and {len(large) - 4} more" if len(large) > 4 else ""
    return f"none on {named}{more} of all parameters: these weights are not in linear modules and stay frozen"
