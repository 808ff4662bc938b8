"""Log-probabilities of completion tokens from the LM head, in chunks: memory does not grow with tokens x vocabulary.

After Liger's fused linear cross-entropy (arXiv 2410.10989, section 3.2): but for a factor, the gradient towards a state
does not depend on what follows, d log p(t) / dh = W_t - sum_v p_v W_v, so it is made while the logits of a chunk are at
hand, and neither logits nor probabilities are kept.
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

# Numbers of one chunk's logits. On a CPU small enough to stay near the caches, on a GPU large enough to fill it.
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
            normaliser = logits.logsumexp(1)
            logps[part] = logits.gather(1, targets[part, None])[:, 0] - normaliser
            if unit is not None:
                # p - onehot before rounding to half precision: where p is near 1, the difference is all there is.
                wrong = logits.sub_(normaliser[:, None]).exp_()
                wrong[torch.arange(len(wrong), device=wrong.device), targets[part]] -= 1.0
                unit[part] = -(wrong.to(weight.dtype) @ weight)
        ctx.save_for_backward(*([] if unit is None else [unit]))
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (unit,) = ctx.saved_tensors
        return gradients[0][:, None].to(unit.dtype) * unit, None, None, None, None


def target_log_probs(
    hidden: Float[Tensor, "token hidden"], head: nn.Linear, targets: Int[Tensor, " token"], chunk: int = 0
) -> Float[Tensor, " token"]:
    """Return the log-probability (nats, float32) of each target under a frozen head, ``chunk`` tokens at a time."""
    chunk = chunk or max(1, CHUNK.get(hidden.device.type, CHUNK["cuda"]) // head.out_features)
    found: Tensor = _TargetLogProbs.apply(hidden, head.weight, head.bias, targets, chunk)  # type: ignore[no-untyped-call]
    return found


def token_log_probs(logits: Float[Tensor, "token vocab"], targets: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Log-probability (nats) of each target, in float32 whatever the model's type."""
    logits = logits.float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)


@contextmanager
def head_on_completions(model: nn.Module, batch: TokenBatch) -> Iterator[Callable[[Tensor], Tensor]]:
    """Let the LM head look only at positions that predict completion tokens; yield (logits) -> log-probs of targets.

    Where the head is a plain frozen linear map and the model hands its output on untouched, the head returns
    log-probabilities, computed in chunks, in place of logits. Else (a trained or adapted head, soft-capped or scaled
    logits) it returns the logits of those positions. Which it is, the first pass finds out and the head remembers. The
    head's module is called either way, as FSDP needs.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    simple = type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters())
    handed_on: bool | None = getattr(head, "_innerpo_handed_on", None) if simple else False
    plain: Callable[[Tensor], Tensor] = head.forward
    returned: list[Tensor] = []

    def forward(hidden: Tensor) -> Tensor:
        states = hidden.flatten(0, 1).index_select(0, batch.predictor)
        if handed_on:
            return target_log_probs(states, head, batch.targets)[None, :, None]
        returned.append(plain(states[None]))
        return returned[-1]

    def read(logits: Tensor) -> Tensor:
        if handed_on:
            return logits[0, :, 0]
        if handed_on is None:
            head._innerpo_handed_on = torch.equal(logits.detach(), returned[-1].detach().to(logits.dtype))
        return token_log_probs(logits[0], batch.targets)

    with forward_replaced(head, forward):
        yield read
