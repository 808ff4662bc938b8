"""Log-probabilities of completion tokens from the LM head, in chunks: memory does not grow with tokens x vocabulary.

After Liger's fused linear cross-entropy (arXiv 2410.10989, section 3.2). The gradient of a log-probability with respect
to a state, d log p(t) / dh = W_t - sum_v p_v W_v, depends on the loss only by a scalar factor. It is therefore computed
in the forward pass, chunk by chunk, and neither logits nor probabilities are kept for the backward pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from innerpo.data.batching.batch import TokenBatch
from innerpo.model.forward.blocks import forward_replaced

# Logits per chunk: on a CPU few enough for its caches, on a GPU enough to occupy it.
CHUNK = {"cpu": 2**23, "cuda": 2**27}


class _TargetLogProbs(torch.autograd.Function):
    """log softmax(h W^T + b)[target] per token; W and b are frozen."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int) -> Tensor:
        logps = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        unit = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = nn.functional.linear(hidden[part], weight, bias).float()
            logps[part], total = _log_softmax_(logits, targets[part, None])
            if unit is not None:
                # Subtract the one-hot target before rounding to half precision: for p near 1 rounding would lose p - 1.
                wrong = logits.div_(total)
                wrong.scatter_add_(1, targets[part, None], wrong.new_full((len(wrong), 1), -1.0))
                unit[part] = -(wrong.to(weight.dtype) @ weight)
                del wrong
            del logits  # before the next chunk's are made
        ctx.save_for_backward(*([] if unit is None else [unit]))
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (unit,) = ctx.saved_tensors
        return gradients[0][:, None].to(unit.dtype) * unit, None, None, None, None


def _log_softmax_(
    logits: Float[Tensor, "token vocab"], targets: Int[Tensor, "token 1"]
) -> tuple[Float[Tensor, " token"], Float[Tensor, "token 1"]]:
    """Return the targets' log-probabilities, and what to divide by; in place of logits leave exp(logit - highest).

    Nothing of the size of the logits is made beside them, and one exponential serves the gradient too.
    """
    logits.sub_(logits.amax(1, keepdim=True))
    target = logits.gather(1, targets)
    total = logits.exp_().sum(1, keepdim=True)
    return (target - total.log())[:, 0], total


def target_log_probs(
    hidden: Float[Tensor, "token hidden"], head: nn.Linear, targets: Int[Tensor, " token"], chunk: int = 0
) -> Float[Tensor, " token"]:
    """Return the log-probability (nats, float32) of each target under a frozen head, ``chunk`` tokens at a time."""
    chunk = chunk or max(1, CHUNK.get(hidden.device.type, CHUNK["cuda"]) // head.out_features)
    found: Tensor = _TargetLogProbs.apply(hidden, head.weight, head.bias, targets, chunk)  # type: ignore[no-untyped-call]
    return found


def token_log_probs(logits: Float[Tensor, "token vocab"], targets: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Return the log-probability (nats) of each target, in float32 whatever the model's type."""
    logits = logits.float()
    # The operations of _log_softmax_, so that a first pass, which reads logits, gives the bits of all later ones.
    shifted = logits - logits.detach().amax(1, keepdim=True)
    return shifted.gather(1, targets[:, None])[:, 0] - shifted.exp().sum(1).log()


@contextmanager
def head_on_completions(model: nn.Module, batch: TokenBatch) -> Iterator[Callable[[Tensor], Tensor]]:
    """Restrict the LM head to positions that predict completion tokens; yield a function (logits) -> log-probs.

    If the head is a frozen linear map and the model returns its output unchanged, the head returns log-probabilities,
    computed in chunks, in place of logits. Otherwise (a trained or adapted head, soft-capped or scaled logits) it
    returns the logits of those positions. The first forward pass determines which, and the result is stored on the
    head. The head's module is called either way, as FSDP needs.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    simple = type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters())
    unchanged: bool | None = getattr(head, "_innerpo_unchanged", None) if simple else False
    plain: Callable[[Tensor], Tensor] = head.forward
    returned: list[Tensor] = []

    def forward(hidden: Tensor) -> Tensor:
        states = hidden.flatten(0, 1).index_select(0, batch.predictor)
        if unchanged:
            return target_log_probs(states, head, batch.targets)[None, :, None]
        returned.append(plain(states[None]))
        return returned[-1]

    def read(logits: Tensor) -> Tensor:
        if unchanged:
            return logits[0, :, 0]
        if unchanged is None:
            head._innerpo_unchanged = torch.equal(logits.detach(), returned[-1].detach().to(logits.dtype))
        return token_log_probs(logits[0], batch.targets)

    with forward_replaced(head, forward):
        yield read
