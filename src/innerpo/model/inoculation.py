"""Inoculation: move chosen and rejected responses apart along a vector at chosen blocks during forward passes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from innerpo.data.batching.batch import TokenBatch
from innerpo.model.forward.blocks import outputs_changed
from innerpo.model.steering import SteeringVector


@contextmanager
def inoculated(
    model: nn.Module, batch: TokenBatch | None, vector: SteeringVector | None, coefficient: float
) -> Iterator[None]:
    """Add + coefficient v_l to the states of chosen responses, - coefficient v_l to those of rejected ones.

    Only at completion tokens; prompts and padding stay. ``batch`` is the one that runs inside the context, chosen and
    rejected responses in turn. Without a batch or a vector nothing changes. After preventative steering (Chen et al.
    2025, arXiv 2507.21509), which steers towards an unwanted trait while training: the model need not learn what is
    there already.
    """
    if vector is None or batch is None:
        yield
        return
    sign = response_signs(batch)

    def move_by(v: Float[Tensor, " hidden"]) -> Callable[[Tensor], Tensor]:
        return lambda state: state + sign.to(state) * (coefficient * v).to(state)

    moves = {block: move_by(v) for block, v in zip(vector.blocks, vector.vectors, strict=True)}
    with outputs_changed(model, moves):
        yield


def response_signs(batch: TokenBatch) -> Float[Tensor, "row time 1"]:
    """Return + 1 at the tokens of chosen responses, - 1 at those of rejected ones and 0 elsewhere."""
    rows, time = batch.input_ids.shape
    signs = torch.zeros(rows * time, device=batch.input_ids.device)
    signs[batch.completion] = 1.0 - 2.0 * (batch.sequence % 2).float()
    return signs.view(rows, time, 1)
