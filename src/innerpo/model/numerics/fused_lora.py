"""An adapted linear layer as one sum: y = x W^T + b + s (x A^T) B^T (LoRA, arXiv 2106.09685, equation 3).

peft rounds x W^T to the model's type and then adds the adapter's part. In bfloat16, what is below half a unit in the
last place of the base's output vanishes so, and that is most of what a young adapter says: training lags (LOG.md). Here
one matrix product starts from the adapter's part (``addmm``), sums in float32, and is rounded once. In float32 the
result is peft's but for rounding.

In bfloat16 the adapter is multiplied in that type too, as autocast would, while its weights, gradients and optimiser
stay in float32: no float32 copy of every layer's input is made and kept. Float16 has no room for an adapter's small
gradients; there it is multiplied in float32.
"""

from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn


def fuse_lora(policy: nn.Module) -> int:
    """Make a model's plain LoRA layers compute their output as one sum; return the number of such layers.

    peft's own forward function remains for layers of other kinds (4 bit, convolutions), and in a forward pass for
    layers with DoRA, a bias of B or several active adapters, or with parts that have hooks or are wrapped
    (offloading, FSDP1, DeepSpeed stage 3).
    """
    layers = [module for module in policy.modules() if type(module) in (LoraLinear, FusedLoraLinear)]
    for layer in layers:
        layer.__class__ = FusedLoraLinear
    return len(layers)


def unfuse_lora(policy: nn.Module) -> None:
    """Undo ``fuse_lora``."""
    for module in policy.modules():
        if type(module) is FusedLoraLinear:
            module.__class__ = LoraLinear


class FusedLoraLinear(LoraLinear):  # type: ignore[misc]
    """peft's LoRA layer with another forward function. It has no state of its own: ``fuse_lora`` swaps the class."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the adapted output, or the base layer's if the adapter is off or merged."""
        name = self._only_adapter()
        if name is None or self.disable_adapters or self.merged or args or kwargs:
            own: Tensor = super().forward(x, *args, **kwargs)
            return own
        dropout = self.lora_dropout[name]
        return fused_lora_linear(
            x,
            self.base_layer.weight,
            self.base_layer.bias,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.scaling[name],
            None if isinstance(dropout, nn.Identity) else dropout(x),
        )

    def _only_adapter(self) -> str | None:
        """Return the only active adapter; None if there are several, or if a part must be called as a module."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if len(active) != 1 or self.fan_in_fan_out or self.lora_variant or self.lora_bias[active[0]]:
            return None
        parts = (self.base_layer, self.lora_A[active[0]], self.lora_B[active[0]])
        return active[0] if all(map(_is_untouched, parts)) else None


def fused_lora_linear(
    x: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None,
    a: Float[Tensor, "rank inputs"],
    b: Float[Tensor, "outputs rank"],
    scaling: float,
    dropped: Float[Tensor, "*batch inputs"] | None = None,
) -> Float[Tensor, "*batch outputs"]:
    """Return x W^T + bias + scaling (x A^T) B^T in the type of x.

    ``a`` and ``b`` may be float32 with half-precision ``x`` and ``weight``. ``dropped`` is the adapter's input in
    place of ``x`` (dropout). In half precision the bias is added, and rounded, last: added first, a large bias would
    round the adapter's part away.
    """
    inner = a.dtype if x.dtype == torch.float16 else x.dtype
    seen = (x if dropped is None else dropped).to(inner)
    low = nn.functional.linear(seen, a.to(inner)) * scaling
    early = bias is not None and bias.dtype not in (torch.bfloat16, torch.float16)
    start = nn.functional.linear(low, b.to(inner), bias if early else None).to(x.dtype)
    summed = torch.addmm(start.reshape(-1, start.shape[-1]), x.reshape(-1, x.shape[-1]), weight.t()).view(start.shape)
    return summed if bias is None or early else summed + bias.to(summed.dtype)


def _is_untouched(part: nn.Module) -> bool:
    """Whether a module is a plain linear map without hooks or a replaced forward function."""
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    return type(part) is nn.Linear and "forward" not in vars(part) and not any(hooks)
