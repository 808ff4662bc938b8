"""From a model to facts: run it on prompts with all their responses, and make one row per response of the outputs."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.evaluation.facts import PAIRS, RESPONSES
from innerpo.methods.inner_reward import InnerReward
from innerpo.model.forward.outputs import SequenceOutputs, StateRequest
from innerpo.model.forward.passes import Offsets, collect
from innerpo.model.forward.trunk_states import TrunkStates

_OF_RESPONSES = ("prompt", "response", "logp", "tokens", "characters", "inner", "abs_log_ratio")


@torch.no_grad()
def score_items(
    model: Any,
    items: Sequence[PromptItem],
    layout: Layout,
    pad_id: int,
    *,
    batch_size: int,
    request: StateRequest | None,
    what: str,
    trunk: TrunkStates | None = None,
) -> SequenceOutputs:
    """Return a model's outputs on every response, in the items' order; each prompt is run once with its responses.

    ``batch_size`` counts prompts. ``what`` names the work in the progress bar. With a ``trunk`` passes begin behind it.
    """
    model.eval()
    what = f"scoring {what}"
    return collect(model, items, layout, pad_id, batch_size=batch_size, request=request, what=what, trunk=trunk)


def absolute_log_ratio(policy: SequenceOutputs, reference: SequenceOutputs) -> Float[Tensor, " seq"]:
    """Return sum_t |log pi(y_t) - log pi_ref(y_t)| over each response's completion tokens, in nats.

    NaN where either lacks log-probabilities by token. Both must hold the same responses in the same order.
    """
    ours, theirs = policy.token_logps, reference.token_logps
    if ours is None or theirs is None:
        return torch.full_like(policy.logps, float("nan"))
    sequence = torch.repeat_interleave(torch.arange(len(policy.n_tokens)), policy.n_tokens.cpu())
    return torch.zeros(len(policy.n_tokens)).index_add(0, sequence, (ours - theirs).abs().float())


def response_facts(
    items: Sequence[PromptItem],
    outputs: SequenceOutputs,
    inner: InnerReward | None,
    abs_log_ratio: Float[Tensor, " seq"],
) -> pl.DataFrame:
    """One row per response: prompt, response, logp, tokens, characters, inner, abs_log_ratio (facts.RESPONSES).

    Raises UserError for a pair with a log-probability that is not finite or with a response without tokens.
    """
    _check(items, outputs)
    unknown = torch.full_like(outputs.logps, float("nan"))
    rewards = unknown if inner is None or outputs.pooled is None else inner(outputs.pooled)
    return pl.DataFrame(
        {
            "prompt": [item.cluster for item in items for _ in item.responses],
            "response": [index for item in items for index in range(len(item.responses))],
            "logp": outputs.logps.double().tolist(),
            "tokens": outputs.n_tokens.tolist(),
            "characters": [n for item in items for n in item.characters],
            "inner": rewards.double().tolist(),
            "abs_log_ratio": abs_log_ratio.double().tolist(),
        },
        schema={name: RESPONSES[name] for name in _OF_RESPONSES},
    )


def pair_facts(items: Sequence[PromptItem]) -> pl.DataFrame:
    """One row per pair: pair, prompt, and the indices of the chosen and the rejected response (facts.PAIRS)."""
    rows = [(pair, item.cluster, chosen, rejected) for item in items for chosen, rejected, pair in item.pairs]
    schema = {name: PAIRS[name] for name in ("pair", "prompt", "chosen", "rejected")}
    return pl.DataFrame(rows, schema, orient="row")  # with types: there may be no row


def _check(items: Sequence[PromptItem], outputs: SequenceOutputs) -> None:
    n_tokens, finite = outputs.n_tokens.tolist(), torch.isfinite(outputs.logps).tolist()
    for start, item in zip(Offsets.of(items).sequences, items, strict=False):
        for chosen, rejected, pair in item.pairs:
            both = (start + chosen, start + rejected)
            if min(n_tokens[i] for i in both) < 1:
                raise UserError(f"pair {pair} has a response without tokens; it cannot be scored")
            if not all(finite[i] for i in both):
                raise UserError(f"pair {pair} has a log-probability that is not finite")
