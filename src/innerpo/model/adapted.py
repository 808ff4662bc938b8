"""An adapted linear layer as one sum: y = x W^T + b + s (x A^T) B^T (LoRA, arXiv 2106.09685, equation 3).

peft rounds x W^T to the model's type and then adds the adapter's part. In bfloat16, what is below half a unit in the
last place of the base's output vanishes so, and that is most of what a young adapter says: training lags (LOG.md). Here
one matrix product starts from the adapter's part (``addmm``), sums in float32, and is rounded once. In float32 the
result is peft's but for rounding, with two element-wise passes less.

In half precision the adapter is multiplied in the model's type, as autocast would, while its weights, gradients and
optimiser stay in float32: no float32 copy of every layer's input is made and kept.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def sum_at_once(policy: nn.Module) -> int:
    """Let the LoRA layers of a model compute their output as one sum; return how many do.

    Layers of other kinds (4 bit, DoRA, transposed, several adapters) are left as they are.
    """
    from peft.tuners.lora.layer import Linear as LoraLinear  # some seconds, which --help need not wait for

    layers = [m for m in policy.modules() if type(m) is LoraLinear and _is_plain(m)]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    return len(layers)


def adapted_linear(
    x: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None,
    a: Float[Tensor, "rank inputs"],
    b: Float[Tensor, "outputs rank"],
    scaling: float,
    dropped: Float[Tensor, "*batch inputs"] | None = None,
) -> Float[Tensor, "*batch outputs"]:
    """Return x W^T + bias + scaling (x A^T) B^T, rounded once to the type of x.

    ``a`` and ``b`` may be in float32 beside half-precision ``x`` and ``weight``. ``dropped`` is what the adapter sees
    in place of ``x`` (dropout).
    """
    seen = x if dropped is None else dropped
    low = nn.functional.linear(seen, a.to(x.dtype))
    start = nn.functional.linear(low * scaling, b.to(x.dtype))
    summed = torch.addmm(start.reshape(-1, start.shape[-1]), x.reshape(-1, x.shape[-1]), weight.t()).view(start.shape)
    return summed if bias is None else summed + bias  # after, since a large bias would round the adapter's part away


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    name = _only_adapter(layer)
    if name is None or layer.disable_adapters or layer.merged or args or kwargs or _is_watched(layer.base_layer):
        own: Tensor = type(layer).forward(layer, x, *args, **kwargs)
        return own
    dropout = layer.lora_dropout[name]
    return adapted_linear(
        x,
        layer.base_layer.weight,
        layer.base_layer.bias,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
        None if isinstance(dropout, nn.Identity) else dropout(x),
    )


def _only_adapter(layer: Any) -> str | None:
    """The one adapter that is on; None where there are several, or it is not a plain one."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    return active[0] if len(active) == 1 and not layer.lora_variant and not layer.lora_bias[active[0]] else None


def _is_plain(layer: Any) -> bool:
    parts = [layer.base_layer, *layer.lora_A.values(), *layer.lora_B.values()]
    return not layer.fan_in_fan_out and all(type(part) is nn.Linear for part in parts)


def _is_watched(base: nn.Module) -> bool:
    """Whether somebody wants the base layer itself to be called (hooks; offloading or sharding replaces forward)."""
    return bool(base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or "forward" in vars(base))
