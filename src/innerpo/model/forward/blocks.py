"""Find a model's decoder blocks, and read or replace what its modules compute."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from innerpo.errors import UserError


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the model's list of decoder blocks: the longest ModuleList whose members are all of one depth.

    Works for Llama, Qwen, Gemma, Mistral, Phi (``model.layers``), GPT-2 (``transformer.h``), GPT-NeoX and wrappers
    of them by peft, DDP or FSDP, since it looks at the modules and not at their names.
    """
    n = text_config(model).num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n]
    if not lists:
        raise UserError(f"found no list of {n} decoder blocks in {type(model).__name__}")
    return lists[0]


def text_config(model: Any) -> Any:
    """Return the config of the language part of a model (the whole config where there is only language)."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def state_of(output: Any) -> Tensor:
    """Return the hidden state in a module's output: the output itself, or the first of a tuple."""
    return output if isinstance(output, Tensor) else output[0]


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace a module's forward function inside the context; its hooks stay."""
    own = module.__dict__.get("forward")  # accelerate may have put one there
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
