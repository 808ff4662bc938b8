"""One forward pass: log-probabilities of completions, and pooled hidden states."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from accelerate.utils import extract_model_from_parallel
from jaxtyping import Float, Int
from torch import Tensor, nn

from innerpo.data.batching.batch import TokenBatch
from innerpo.errors import UserError
from innerpo.model.forward.logps import head_on_completions
from innerpo.model.forward.sites import RESIDUAL, read_points
from innerpo.model.forward.start import run, started
from innerpo.model.numerics.half_matmul import float32_matmul

Pool = Literal["mean", "last", "first_divergence"]


class StateShapeError(UserError):
    """The states at a site are not one vector per token (Gemma 3n's blocks pass on several streams)."""


@dataclass(frozen=True)
class StateRequest:
    """Which hidden states a forward pass returns.

    ``layers`` are block numbers, ``pool`` is how tokens are pooled, ``tokens`` keeps the state of every completion
    token, ``site`` is where in a block states are read (sites.py).
    """

    layers: tuple[int, ...]
    pool: Pool = "mean"
    token_states: bool = False
    site: str = RESIDUAL


@dataclass(frozen=True)
class SequenceOutputs:
    """The model's outputs on each response, in the order of the batch.

    ``logps`` are sums over completion tokens, in nats; ``token_logps`` are their summands. ``pooled`` are the pooled
    states s_l(y) before the transform: means of RMS-normalised states u = h / rms(h) (block outputs, or another site)
    over the pooled tokens. ``token_states`` are the u of every completion token. ``rms`` is the mean of rms(h) over all
    completion tokens of the batch; it is measured only without gradient and together with ``token_states``.
    """

    logps: Float[Tensor, " seq"]
    n_tokens: Int[Tensor, " seq"]
    pooled: Float[Tensor, "layer seq hidden"] | None = None
    token_states: Float[Tensor, "layer token hidden"] | None = None
    rms: Float[Tensor, " layer"] | None = None
    token_logps: Float[Tensor, " token"] | None = None

    def to(self, device: torch.device, **kwargs: Any) -> "SequenceOutputs":
        """Return the outputs on a device."""
        return self._each(lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self, device: Any = None) -> "SequenceOutputs":
        """Return the outputs in page-locked memory, which a GPU copies without blocking the host."""
        return self._each(lambda tensor: tensor.pin_memory(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "SequenceOutputs":
        present: dict[str, Any] = {f.name: change(t) for f in fields(self) if (t := getattr(self, f.name)) is not None}
        return replace(self, **present)


def sequence_outputs(model: nn.Module, batch: TokenBatch, states: StateRequest | None = None) -> SequenceOutputs:
    """Run the model once over a batch, with gradients if torch's grad mode is on.

    The model is called as a whole (so DDP, FSDP and autocast see an ordinary forward); its LM head computes only the
    positions that predict completion tokens (logps.py), and hooks at the chosen blocks read the states. A batch with a
    ``start`` begins there (start.py). Raises UserError if the site's states differ in width between blocks.
    """
    bare = extract_model_from_parallel(model)
    request = states or StateRequest(())
    with (
        float32_matmul(bare),
        started(bare, batch.start),
        head_on_completions(bare, batch) as log_probs,
        _read_blocks(bare, batch, request) as read,
    ):
        output = run(model, batch, bare)
    token_logps = log_probs(output.logits)
    logps = torch.zeros(batch.n_sequences, dtype=token_logps.dtype, device=token_logps.device)
    found, measured = read(), _measures_size(request)
    if len(widths := {int(pooled.shape[-1]) for pooled, _, _ in found}) > 1:
        raise UserError(
            f"method.site={request.site!r} has states of different widths in different blocks: {sorted(widths)}"
        )
    return SequenceOutputs(
        logps=logps.index_add(0, batch.sequence, token_logps),
        n_tokens=batch.n_tokens,
        pooled=torch.stack([pooled for pooled, _, _ in found]) if found else None,
        token_states=torch.stack([tokens for _, tokens, _ in found]) if found and request.token_states else None,
        rms=torch.stack([rms for _, _, rms in found]) if found and measured else None,
        token_logps=token_logps,
    )


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without mixed precision; the meta device has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def rms_normalise(h: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
    """Divide each state by its root mean square, so that all layers and tokens have the same scale."""
    h = h.float()
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-12)


def pool_weights(batch: TokenBatch, pool: Pool) -> Float[Tensor, "seq token"]:
    """Return each completion token's weight in its response's pooled state; they sum to 1 per response."""
    first = {
        "mean": torch.zeros_like(batch.n_tokens),
        "last": batch.n_tokens - 1,
        "first_divergence": batch.divergence,
    }[pool]
    kept = batch.offset >= first[batch.sequence]
    own = batch.sequence[None, :] == torch.arange(batch.n_sequences, device=kept.device)[:, None]
    weights = (own & kept).float()
    return weights / weights.sum(1, keepdim=True)


def _measures_size(request: StateRequest) -> bool:
    """Whether a pass measures how large states are: the reference's does, a training step has no use for it."""
    return request.token_states and not torch.is_grad_enabled()


@contextmanager
def _read_blocks(model: nn.Module, batch: TokenBatch, request: StateRequest) -> Iterator[Any]:
    """Read the chosen blocks' states during one forward pass; yield a function -> [(pooled, tokens, rms)] by layer.

    Without gradient a state is pooled at once and its tokens are freed. With gradient, autograd keeps the state
    anyway, and it is pooled after the forward pass: computing inside a checkpointed block would make its
    recomputation, which runs without these hooks, save other tensors than the first pass did.
    """
    weights = pool_weights(batch, request.pool) if request.layers else None
    found: dict[int, Any] = {}

    def reduce(output: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        assert weights is not None
        states = output.flatten(0, 1).index_select(0, batch.completion)
        tokens = rms_normalise(states)
        rms = states.float().square().mean(-1).sqrt().mean() if _measures_size(request) else None
        with without_autocast(tokens.device):  # states are pooled in float32
            pooled = weights @ tokens
        return pooled, tokens if request.token_states else None, rms

    def hook_for(layer: int) -> Any:
        def hook(state: Tensor) -> None:
            if state.ndim != 3 or state.shape[:2] != batch.input_ids.shape:
                shape = tuple(state.shape)
                raise StateShapeError(
                    f"method.site={request.site!r}: block {layer} of {type(model).__name__} has states of shape "
                    f"{shape} there, not one vector a token; choose another method.site (mlp_out, attn_out), or a "
                    "method that reads no states (dpo, ipo, simpo, sft)"
                )
            found[layer] = state if torch.is_grad_enabled() else reduce(state)

        return hook

    points = read_points(model, request.layers, request.site) if request.layers else []
    handles = [point.on_state(hook_for(layer)) for layer, point in zip(request.layers, points, strict=True)]
    try:
        yield lambda: [
            reduce(state) if isinstance(state := found[layer], Tensor) else state for layer in request.layers
        ]
    finally:
        for handle in handles:
            handle.remove()
