"""Training written as plainly as it can be, for comparison: each response on its own, whole logits, no cache."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from innerpo.config.run import RunConfig
from innerpo.data.batching.batch import TokenBatch, make_batch
from innerpo.data.tokens import PromptItem
from innerpo.methods.method import Method
from innerpo.methods.records import PairOutputs
from innerpo.model.base import reference_mode
from innerpo.model.forward.outputs import SequenceOutputs, StateRequest
from innerpo.training.sampler import first_steps


def plain_outputs(model: nn.Module, items: Sequence[PromptItem], request: StateRequest | None) -> SequenceOutputs:
    """Run every prompt with every response as a row of its own, without padding or mask; logits and states whole.

    States are block outputs pooled by their mean; the last block's cannot be read so (transformers returns them behind
    the final norm).
    """
    logps: list[Tensor] = []
    tokens: list[Tensor] = []
    for item in items:
        for response in item.responses:
            ids = torch.tensor([[*item.prompt, *response]], device=next(model.parameters()).device)
            out = model(ids, use_cache=False, output_hidden_states=request is not None)
            log_probs = torch.log_softmax(out.logits[0, len(item.prompt) - 1 : -1].float(), -1)
            logps.append(log_probs.gather(1, ids[0, len(item.prompt) :, None]).sum())
            if request is not None:
                assert request.pool == "mean"
                assert max(request.layers) < len(out.hidden_states) - 2
                h = torch.stack([out.hidden_states[layer + 1][0, len(item.prompt) :] for layer in request.layers])
                tokens.append(h.float() / h.float().square().mean(-1, keepdim=True).sqrt())
    return SequenceOutputs(
        logps=torch.stack(logps),
        n_tokens=torch.tensor([len(r) for i in items for r in i.responses]),
        pooled=torch.stack([t.mean(1) for t in tokens], 1) if tokens else None,
        token_states=torch.cat(tokens, 1) if tokens else None,
    )


def plain_losses(
    policy: Any, method: Method, items: Sequence[PromptItem], config: RunConfig, steps: int, pad_id: int
) -> list[float]:
    """Train for some steps with AdamW at a constant learning rate; return each step's mean loss over its pairs.

    The pairs of a step are those that the Trainer gets from the sampler.
    """
    training = config.training
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, training.lr, weight_decay=training.weight_decay)
    losses = []
    for indices in batches(items, config, steps):
        some = [items[i] for i in indices]
        batch = make_batch(some, "concatenated", pad_id)  # only which token is whose is read of it
        out = method.loss(
            _pairs(plain_outputs(policy, some, method.request), batch, method),
            _pairs(_reference(policy, some, method), batch, method),
        )
        loss = out.per_pair.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, training.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def batches(items: Sequence[PromptItem], config: RunConfig, steps: int) -> list[list[int]]:
    """Return which pairs each step trains on, epoch after epoch."""
    return first_steps(len(items), config.data.batch_size, config.training.seed, steps)


def _reference(policy: Any, items: Sequence[PromptItem], method: Method) -> SequenceOutputs:
    with reference_mode(policy):
        return plain_outputs(policy, items, method.request)


def _pairs(outputs: SequenceOutputs, batch: TokenBatch, method: Method) -> PairOutputs:
    return PairOutputs.of(outputs, batch, method.transform)
