"""Where in a decoder block states are read: the words of ``method.site`` to modules."""

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
# Families name the same thing differently; of each site's names the first that a block has counts.
NAMED: dict[str, tuple[str, ...]] = {
    "attn_out": ("self_attn", "attn", "attention", "self_attention"),
    "mlp_out": ("mlp", "feed_forward", "ffn"),
    "o_proj_in": ("o_proj", "self_attn.out_proj", "attn.c_proj", "attention.dense", "self_attn.dense"),
    "down_proj_in": ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2"),
}


@dataclass(frozen=True)
class Place:
    """A module whose output (or, with ``before``, input) is the state of a block."""

    module: nn.Module
    before: bool = False

    def on_state(self, read: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``read`` with the state in every forward pass, until the handle is removed."""
        if self.before:

            def pre_hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                read(args[0] if args else next(iter(kwargs.values())))

            return self.module.register_forward_pre_hook(pre_hook, with_kwargs=True)

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            read(state_of(output))

        return self.module.register_forward_hook(hook)


def site_places(model: nn.Module, layers: Sequence[int], site: str = RESIDUAL) -> list[Place]:
    """Return where the states of some blocks are read.

    ``site`` is ``residual`` (the block's own output), a name of NAMED, the last part of a module's name in the block
    (its output; with ``_in`` behind it, its input), or ``re:`` and a regular expression for the whole of that name.
    Raises UserError where it fits no module of a block, or more than one.
    """
    blocks = decoder_blocks(model)
    return [Place(blocks[layer]) if site == RESIDUAL else _place(blocks[layer], layer, site) for layer in layers]


def _place(block: nn.Module, layer: int, site: str) -> Place:
    modules = _own_modules(block)
    for names, before in _readings(site):
        found = next((fits for name in names if (fits := _fitting(modules, name))), [])
        if len(found) > 1:
            raise UserError(
                f"method.site={site!r} fits {len(found)} modules of block {layer} ({', '.join(found[:6])}); name one"
            )
        if found:
            return Place(modules[found[0]], before)
    known = [RESIDUAL, *NAMED, *modules]
    near = near_matches(site, known) if not site.startswith("re:") else ""
    near = near if "did you mean" in near else ""
    raise UserError(
        f"method.site={site!r} fits no module of block {layer}{near}; there are {', '.join(known)} "
        "(NAME_in is the input of a module, re:PATTERN a regular expression)"
    )


def _readings(site: str) -> list[tuple[tuple[str, ...], bool]]:
    """The (names, whether it is the input) that a site may stand for, in order."""
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
    """The block's modules by their names in it; of an adapted one, the whole and not its parts."""
    adapted = [f"{name}." for name, module in block.named_modules() if hasattr(module, "base_layer")]
    return {n: m for n, m in block.named_modules() if n and not n.startswith(tuple(adapted))}
