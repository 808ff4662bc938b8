"""Find a model's decoder blocks, and read or replace what its modules compute."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from innerpo.errors import UserError


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the list of decoder blocks: the first ModuleList of the language model with one member per layer.

    Works for Llama, Qwen, Gemma, Mistral, Phi (``model.layers``), GPT-2 (``transformer.h``), GPT-NeoX, the language
    part of vision-language models, and wrappers by peft, DDP or FSDP: modules are found by size and not by name.
    """
    n = text_config(model).num_hidden_layers
    for part in (language_model(model), model):
        lists = [m for m in part.modules() if isinstance(m, nn.ModuleList) and len(m) == n]
        if lists:
            return lists[0]
    raise UserError(f"found no list of {n} decoder blocks in {type(model).__name__}")


def blocks_name(model: nn.Module) -> str:
    """Return the name of a model's list of decoder blocks: ``model.layers``, ``transformer.h``."""
    blocks = decoder_blocks(model)
    return str(next(name for name, module in model.named_modules() if module is blocks))


def language_model(model: nn.Module) -> nn.Module:
    """Return the text decoder inside a model, without its LM head; the model itself if it does not name one."""
    bare: Any = extract_model_from_parallel(model)
    found = bare.get_decoder() if hasattr(bare, "get_decoder") else None
    return found if isinstance(found, nn.Module) else model


def text_config(model: Any) -> Any:
    """Return the config of the language part of a model (the whole config where there is only language)."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def state_of(output: Any) -> Tensor:
    """Return the hidden state in a module's output: the output itself, or the first of a tuple."""
    return output if isinstance(output, Tensor) else output[0]


@contextmanager
def outputs_changed(model: nn.Module, changes: Mapping[int, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replace the state that each named block puts out by a function of it, in forward passes inside the context.

    The hooks stand on whole blocks, outside compiled code. A hook that is put on later sees the changed state. With
    gradient checkpointing the backward pass runs a block again, then without these hooks; so a function must keep no
    tensor for its gradient (an added constant needs none, ablation.py has a function of its own).
    """
    blocks = decoder_blocks(model)

    def hook_for(change: Callable[[Tensor], Tensor]) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            moved = change(state_of(output))
            return moved if isinstance(output, Tensor) else (moved, *output[1:])

        return hook

    handles = [blocks[block].register_forward_hook(hook_for(change)) for block, change in changes.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
