"""Where in a decoder block states are read: translate ``method.site`` to modules."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from innerpo.errors import UserError, near_matches
from innerpo.model.forward.blocks import decoder_blocks, state_of

RESIDUAL = "residual"
INPUT = "_in"
# Model families use different names; the first name of a site that a block has is used.
NAMED: dict[str, tuple[str, ...]] = {
    "attn_out": ("self_attn", "attn", "attention", "self_attention"),
    "mlp_out": ("mlp", "feed_forward", "ffn"),
    "o_proj_in": ("o_proj", "self_attn.out_proj", "attn.c_proj", "attention.dense", "self_attn.dense"),
    "down_proj_in": ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2"),
}


@dataclass(frozen=True)
class ReadPoint:
    """A module whose output (or input, if ``before``) is read as the state of a block."""

    module: nn.Module
    before: bool = False

    def on_state(self, read: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``read(state)`` in every forward pass until the returned handle is removed."""
        if self.before:

            def pre_hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                read(args[0] if args else next(iter(kwargs.values())))

            return self.module.register_forward_pre_hook(pre_hook, with_kwargs=True)

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            read(state_of(output))

        return self.module.register_forward_hook(hook)


def read_points(model: nn.Module, layers: Sequence[int], site: str = RESIDUAL) -> list[ReadPoint]:
    """Return where the states of the given blocks are read.

    ``site`` is ``residual`` (the block's own output), a name of NAMED, the last part of a module's name in the block
    (its output, or its input if ``_in`` is appended), or ``re:`` and a regular expression for the module's whole name.
    Raises UserError if it matches no module of a block, or more than one.
    """
    blocks = decoder_blocks(model)
    return [
        ReadPoint(blocks[layer]) if site == RESIDUAL else _read_point(blocks[layer], layer, site) for layer in layers
    ]


def _read_point(block: nn.Module, layer: int, site: str) -> ReadPoint:
    modules = _own_modules(block)
    for names, before in _candidates(site):
        found = next((fits for name in names if (fits := _fitting(modules, name))), [])
        if len(found) > 1:
            raise UserError(
                f"method.site={site!r} fits {len(found)} modules of block {layer} ({', '.join(found[:6])}); name one"
            )
        if found:
            return ReadPoint(modules[found[0]], before)
    known = [RESIDUAL, *NAMED, *modules]
    near = near_matches(site, known) if not site.startswith("re:") else ""
    near = near if "did you mean" in near else ""
    raise UserError(
        f"method.site={site!r} fits no module of block {layer}{near}; there are {', '.join(known)} "
        "(NAME_in is the input of a module, re:PATTERN a regular expression)"
    )


def _candidates(site: str) -> list[tuple[tuple[str, ...], bool]]:
    """Return the (module names, whether the input is read) that a site may mean, in order of preference."""
    if site in NAMED:
        return [(NAMED[site], site.endswith(INPUT))]
    plain: list[tuple[tuple[str, ...], bool]] = [((site,), False)]
    return [*plain, ((site.removesuffix(INPUT),), True)] if site.endswith(INPUT) and site != INPUT else plain


def _fitting(modules: dict[str, nn.Module], name: str) -> list[str]:
    if not name.startswith("re:"):
        return [m for m in modules if m == name or m.endswith(f".{name}")]
    try:
        pattern = re.compile(name.removeprefix("re:"))
    except re.error as error:
        raise UserError(f"method.site={name!r} is not a regular expression: {error}") from None
    return [m for m in modules if pattern.fullmatch(m)]


def _own_modules(block: nn.Module) -> dict[str, nn.Module]:
    """Return the block's modules by name; an adapted module counts as one, without its parts."""
    adapted = [f"{name}." for name, module in block.named_modules() if hasattr(module, "base_layer")]
    return {n: m for n, m in block.named_modules() if n and not n.startswith(tuple(adapted))}
