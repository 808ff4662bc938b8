"""Forward passes over a part of the decoder blocks: only the first ones, or all but those.

The model is called as a whole, so that embeddings, masks, rotary tables, the final norm and the head are its own; the
blocks that are left out get a forward function that hands a state on. Hooks on them still run.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from innerpo.data.batching.batch import Start, TokenBatch
from innerpo.model.forward.blocks import decoder_blocks, forward_replaced, state_of
from innerpo.model.forward.masks import mask_for
from innerpo.model.numerics.half_matmul import float32_matmul

Form = int
"""What a block returns: 0 for its state alone, else the length of the tuple whose first member is the state."""


@contextmanager
def started(model: nn.Module, start: Start | None) -> Iterator[None]:
    """Begin forward passes at a block; None: at the embedding.

    A hook on the output of the last block that is left out sees (and may change) the states that enter.
    """
    if start is None:
        yield
        return
    states = start.states
    with _left_out(decoder_blocks(model)[: start.block], start.forms, lambda _: states):
        yield


@torch.no_grad()
def entering_states(
    model: nn.Module, batch: TokenBatch, block: int, forms: Sequence[Form]
) -> Float[Tensor, "row time hidden"]:
    """Run the blocks before ``block`` alone and return the states that enter it. ``forms`` are those of all blocks."""
    blocks, found = decoder_blocks(model), list[Tensor]()
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    handle = blocks[block - 1].register_forward_hook(lambda _, __, output: found.append(state_of(output)))
    try:
        with (
            float32_matmul(model),
            _left_out(blocks[block:], forms[block:], lambda state: state),
            forward_replaced(head, lambda hidden: hidden[..., :1]),
        ):
            run(model, batch)
    finally:
        handle.remove()
    return found[-1]


@contextmanager
def output_forms(model: nn.Module) -> Iterator[list[Form]]:
    """Record what every block returns in a forward pass inside the context, in the order of their calls."""
    found: list[Form] = []

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        found.append(0 if isinstance(output, Tensor) else len(output))

    handles = [block.register_forward_hook(hook) for block in decoder_blocks(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def run(model: Any, batch: TokenBatch, mask_of: nn.Module | None = None) -> Any:
    """Call a model on a batch; ``mask_of`` is the model itself where ``model`` wraps it (DDP, FSDP)."""
    return model(
        input_ids=batch.input_ids,
        attention_mask=mask_for(model if mask_of is None else mask_of, batch),
        use_cache=False,
        **({"position_ids": batch.position_ids} if batch.layout != "concatenated" else {}),
    )


@contextmanager
def _left_out(blocks: Iterable[nn.Module], forms: Sequence[Form], state: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let blocks return, in place of what they compute, a function of the state that they get."""

    def forward_of(form: Form) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            handed_on = state(args[0] if args else kwargs["hidden_states"])
            return (handed_on, *[None] * (form - 1)) if form else handed_on

        return forward

    with ExitStack() as stack:
        for block, form in zip(blocks, forms, strict=True):
            stack.enter_context(forward_replaced(block, forward_of(form)))
        yield
