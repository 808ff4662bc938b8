"""What a gradient method is: a projection of gradients on directions, one for each adapted module."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from jaxtyping import Float
from torch import Tensor, nn

from innerpo.model.forward.blocks import decoder_blocks

ModuleKey = tuple[int, str]
"""Where a module is: number of its decoder block, name within the block."""


@dataclass(frozen=True)
class GradientEdit:
    """Directions (unit norm, output space of their module) and kappa. The base class changes no gradient."""

    directions: Mapping[ModuleKey, Float[Tensor, " out"]]
    kappa: float

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Hold hooks on the model while it trains."""
        yield

    def after_backward(self, model: nn.Module) -> None:
        """Change gradients of parameters: once a step, all its batches accumulated, before clipping."""


def project(g: Float[Tensor, "... out"], w: Float[Tensor, " out"], kappa: float) -> Float[Tensor, "... out"]:
    """Return w w^T g + kappa (I - w w^T) g along the last axis; kappa = 1 returns g to the bit."""
    w = w.to(g.device, torch.promote_types(g.dtype, torch.float32))
    full = g.to(w.dtype)
    along = (full @ w)[..., None] * w
    return (kappa * full + (1.0 - kappa) * along).to(g.dtype)


def adapted_modules(model: nn.Module) -> dict[ModuleKey, Any]:
    """Return the modules of the decoder blocks that are trained: those with a LoRA adapter, else all linear ones."""
    blocks = decoder_blocks(extract_model_from_parallel(model))
    every = {(i, name): m for i, block in enumerate(blocks) for name, m in block.named_modules()}
    lora = {place: m for place, m in every.items() if hasattr(m, "lora_B") and len(m.lora_B)}
    return lora or {place: m for place, m in every.items() if isinstance(m, nn.Linear)}
