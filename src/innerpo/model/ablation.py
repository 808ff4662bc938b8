"""Ablation: take a subspace out of the residual stream at chosen blocks and every token during forward passes."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from innerpo.model.forward.blocks import outputs_changed


@dataclass(frozen=True)
class Ablation:
    """A subspace N per block, and the share of the component in it that is taken out (1: all of it).

    The columns of ``basis`` are orthonormal or zero, in the coordinates of the residual stream.
    """

    blocks: tuple[int, ...]
    basis: Float[Tensor, "layer hidden rank"]
    share: float = 1.0

    @property
    def key(self) -> str:
        """A hash of its content, for the key of what is computed under it."""
        content = self.basis.detach().float().cpu().contiguous().numpy().tobytes()
        shape = f"{self.blocks}/{tuple(self.basis.shape)}/{self.share!r}/"
        return hashlib.sha256(shape.encode() + content).hexdigest()[:24]


@contextmanager
def ablated(model: nn.Module, ablation: Ablation | None) -> Iterator[None]:
    """Let the chosen blocks put out h - share N N^T h at every token, prompt and padding included; None: no change.

    Concept ablation fine-tuning (Casademunt et al. 2025, arXiv 2507.16795) trains so. States read inside the context
    are those that were changed. A direction of u = h / rms(h) is one of h, so u has no component in N either.
    """
    if ablation is None:
        yield
        return
    bases = zip(ablation.blocks, ablation.basis, strict=True)
    with outputs_changed(model, {block: _Removal(basis, ablation.share) for block, basis in bases}):
        yield


@dataclass(frozen=True)
class _Removal:
    """state -> state - share N N^T state, with its gradient."""

    basis: Float[Tensor, "hidden rank"]
    share: float

    def __call__(self, state: Tensor) -> Tensor:
        moved: Tensor = _Remove.apply(state, self.basis.to(state.device), self.share)  # type: ignore[no-untyped-call]
        return moved


class _Remove(torch.autograd.Function):
    """The map is symmetric, so its gradient is the map itself.

    N is a constant and no saved tensor: a checkpointed block counts those, and runs again without this hook.
    """

    @staticmethod
    def forward(ctx: Any, state: Tensor, basis: Tensor, share: float) -> Tensor:
        ctx.basis, ctx.share = basis, share
        return without(state, basis, share)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return without(grads[0], ctx.basis, ctx.share), None, None


def without(
    state: Float[Tensor, "... hidden"], basis: Float[Tensor, "hidden rank"], share: float
) -> Float[Tensor, "... hidden"]:
    """Return state - share N N^T state, computed in float32 and rounded to the state's type."""
    with torch.autocast(state.device.type, enabled=False):
        whole, columns = state.float(), basis.float()
        return (whole - share * ((whole @ columns) @ columns.T)).to(state.dtype)
