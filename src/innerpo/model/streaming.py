"""Texts token by token, as they are drawn: for a terminal, where a person reads along and may stop."""

from collections.abc import Iterator
from typing import Any

import torch

from innerpo.errors import UserError
from innerpo.model.base import Base
from innerpo.model.context import max_positions
from innerpo.model.generation import GenerationPrompt, stops_of
from innerpo.model.sampling import Sampling


def check_room(base: Base, prompt: GenerationPrompt, sampling: Sampling) -> None:
    """Raise UserError where prompt and text do not fit the model's positions."""
    limit, length = max_positions(base.model), len(prompt.ids)
    if length + sampling.max_new_tokens > limit:
        raise UserError(
            f"the conversation has {length} tokens, which with {sampling.max_new_tokens} new ones do not fit the "
            f"model's {limit:.0f} positions"
        )


def stream(model: Any, base: Base, prompt: GenerationPrompt, sampling: Sampling) -> Iterator[int]:
    """Yield the tokens of a model's text one by one, the one that ends it included.

    They are those of ``generation.generate``: the same processors draw them, with noise that seed and key fix.
    """
    stops = {*stops_of(base), prompt.close}
    processors = sampling.processors([prompt.key])
    seen = torch.tensor([list(prompt.ids)], device=base.device)
    step, cache = seen, dict[str, Any]()
    for _ in range(sampling.max_new_tokens):
        with torch.no_grad():
            out = model(input_ids=step, use_cache=True, **cache)
        # Mamba's cache has a name of its own; what returns none (RecurrentGemma) reads all tokens again.
        cache = {name: out[name] for name in ("past_key_values", "cache_params") if name in out}
        scores = out.logits[:, -1].float()
        for processor in processors:
            scores = processor(seen, scores)
        drawn = scores.argmax(-1, keepdim=True)
        seen = torch.cat([seen, drawn], 1)
        step, token = drawn if cache else seen, int(drawn)
        yield token
        if token in stops:
            return
