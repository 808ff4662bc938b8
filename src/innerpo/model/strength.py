"""The policy at strength s: its base with s times the adapter's update. Costs no training.

For an adapter that is added to a weight (LoRA: W + s * scaling * B A) the update is scaled where it is added; a fully
fine-tuned policy's weights lie at base + s (policy - base). Afterwards the policy is what it was, to the bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.loha.layer import LoHaLayer
from peft.tuners.lokr.layer import LoKrLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from innerpo.errors import UserError
from innerpo.model.adapters import changes_base, variants_of
from innerpo.model.base import reference_mode


@contextmanager
def at_strength(policy: Any, strength: float, base: nn.Module) -> Iterator[None]:
    """Run the policy at a strength: 0 is the base, 1 the adapter as trained; others extrapolate.

    ``base`` is the base model; it is read only where the policy is a fully fine-tuned copy. Raises UserError for an
    adapter whose update cannot be scaled (DoRA, IA3, adapters with trained copies of whole modules, ...).
    """
    if strength == 1.0 or policy is base:
        yield
    elif not hasattr(policy, "disable_adapter"):
        with _between(policy, base, strength):
            yield
    elif strength == 0.0:
        with reference_mode(policy):
            yield
    else:
        with _scaled(policy, strength):
            yield


def is_noop(policy: nn.Module) -> bool:
    """Whether the adapter's update is zero by its weights (an untrained LoRA adapter), so that nothing can differ."""
    layers = _tuned(policy)
    return bool(layers) and all(any(not bool(factor.any()) for factor in _factors(layer)) for layer in layers)


@contextmanager
def _scaled(policy: nn.Module, strength: float) -> Iterator[None]:
    layers = _tuned(policy)
    for layer in layers:
        _check_scalable(layer)
    _check_nothing_else(policy)
    kept = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            for name in layer.scaling:
                layer.scaling[name] *= strength
        yield
    finally:
        for layer, scaling in zip(layers, kept, strict=True):
            layer.scaling.update(scaling)


@contextmanager
@torch.no_grad()
def _between(policy: nn.Module, base: nn.Module, strength: float) -> Iterator[None]:
    own, start = dict(policy.named_parameters()), dict(base.named_parameters())
    kept = {name: p.detach().clone() for name, p in own.items()}
    try:
        for name, p in own.items():
            p.copy_(start[name].lerp(p.to(start[name].dtype), strength))
        yield
    finally:
        for name, p in own.items():
            p.copy_(kept[name])


def _tuned(policy: nn.Module) -> list[Any]:
    return [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]


def _check_scalable(layer: Any) -> None:
    if not isinstance(layer, LoraLayer | LoHaLayer | LoKrLayer) or variants_of(layer):
        kind = " ".join([type(layer).__name__, *variants_of(layer)])
        raise UserError(
            "eval.strengths other than 0 and 1 need an adapter whose update is added to a weight (LoRA, LoHa, LoKr); "
            f"this one has {kind}"
        )


def _check_nothing_else(policy: Any) -> None:
    """Refuse parts that are trained beside the added update: their change would not be scaled."""
    for name in policy.peft_config:
        config = policy.peft_config[name]
        saved, tokens = (getattr(config, name, None) for name in ("modules_to_save", "trainable_token_indices"))
        what = f"modules_to_save={saved}" if saved else "trained tokens" if tokens else changes_base(config)
        if what:
            raise UserError(f"eval.strengths other than 0 and 1 cannot scale this adapter: it has {what}")


def _factors(layer: Any) -> list[torch.Tensor]:
    """The factors of which a layer's update is the product, as far as one of them is zero at the start."""
    names = (
        "lora_A",
        "lora_B",
        "lora_E",
        "lora_embedding_B",
        "hada_w2_a",
        "hada_w2_b",
        "lokr_w1",
        "lokr_w2",
        "lokr_w2_a",
    )
    held = [getattr(layer, name) for name in names if len(getattr(layer, name, ()))]
    found: list[Any] = [p.weight if isinstance(p, nn.Module) else p for d in held for p in d.values()]
    return found
