"""Gradient edits: projections of gradients on preference directions, one direction for each adapted module."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate.utils import extract_model_from_parallel
from jaxtyping import Float
from torch import Tensor, nn

from innerpo.errors import UserError
from innerpo.model.adapters import variants_of
from innerpo.model.forward.blocks import decoder_blocks

ModuleKey = tuple[int, str]
"""Key of a module: index of its decoder block, name within the block."""


@dataclass(frozen=True)
class GradientEdit:
    """Directions (unit norm, in the output space of their module) and kappa. The base class changes no gradient.

    ``hooks_modules`` declares that ``installed`` puts hooks on modules inside decoder blocks, which compiled code would
    skip.
    """

    directions: Mapping[ModuleKey, Float[Tensor, " out"]]
    kappa: float
    hooks_modules: ClassVar[bool] = False

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Keep hooks on the model inside a ``with`` block around training."""
        yield

    def after_backward(self, model: nn.Module) -> None:
        """Edit the gradients of parameters. Called once per optimiser step, after accumulation and before clipping."""


def project(g: Float[Tensor, "... out"], w: Float[Tensor, " out"], kappa: float) -> Float[Tensor, "... out"]:
    """Return w w^T g + kappa (I - w w^T) g along the last axis; kappa = 1 returns g bit for bit."""
    w = w.to(g.device, torch.promote_types(g.dtype, torch.float32))
    full = g.to(w.dtype)
    along = (full @ w)[..., None] * w
    return (kappa * full + (1.0 - kappa) * along).to(g.dtype)


def adapted_modules(model: nn.Module) -> dict[ModuleKey, Any]:
    """Return the trained modules of the decoder blocks: those with a LoRA adapter, or all linear ones without LoRA."""
    blocks = decoder_blocks(extract_model_from_parallel(model))
    every = {(i, name): m for i, block in enumerate(blocks) for name, m in block.named_modules()}
    lora = {key: m for key, m in every.items() if hasattr(m, "lora_B") and len(m.lora_B)}
    return lora or {key: m for key, m in every.items() if isinstance(m, nn.Linear)}


def check_projectable(model: nn.Module) -> None:
    """Raise UserError for an adapter that is no plain LoRA: none of its parameters has a module's output as rows."""
    from peft.tuners.adalora import AdaLoraLayer
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in extract_model_from_parallel(model).modules():
        plain = isinstance(module, LoraLayer) and not isinstance(module, AdaLoraLayer) and not variants_of(module)
        if isinstance(module, BaseTunerLayer) and not plain:
            kind = " ".join([type(module).__name__, *variants_of(module)])
            raise UserError(
                f"method.gradient needs a plain LoRA adapter or full fine-tuning, this adapter has {kind}; give "
                "another, or a method that projects no gradients"
            )
