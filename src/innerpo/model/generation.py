"""Texts by transformers' ``generate``: base and policy on the same prompts, in one batch where it fits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer

from innerpo.data.tokens import Ids
from innerpo.errors import UserError
from innerpo.model.base import Base, reference_mode
from innerpo.model.context import max_positions
from innerpo.model.sampling import Sampling


@dataclass(frozen=True)
class GenerationPrompt:
    """Token ids to go on from. ``close`` is the id that ends a text; ``key`` names the prompt and seeds its draws."""

    ids: Ids
    close: int
    key: str


@dataclass(frozen=True)
class Written:
    """A generated text as token ids; ``stopped`` says whether the last of them closes it."""

    ids: Ids
    stopped: bool


def generate_both(
    policy: Any, base: Base, prompts: Sequence[GenerationPrompt], sampling: Sampling
) -> tuple[list[Written], list[Written]]:
    """Return the base's and the policy's texts on a batch of prompts.

    Base and policy run as one batch of twice as many
    rows where ``not_in_one_batch`` has no objection, else one after the other.
    """
    if not_in_one_batch(policy):
        with reference_mode(policy):
            own = generate(base.model, base, prompts, sampling)
        return own, generate(policy, base, prompts, sampling)
    (name,) = policy.active_adapters
    names = ["__base__"] * len(prompts) + [name] * len(prompts)
    found = generate(policy, base, [*prompts, *prompts], sampling, adapter_names=names)
    return found[: len(prompts)], found[len(prompts) :]


@torch.no_grad()
def generate(
    model: Any, base: Base, prompts: Sequence[GenerationPrompt], sampling: Sampling, **options: Any
) -> list[Written]:
    """Return a model's text on every prompt of a batch: prompts padded on the left, texts cut behind their end.

    A text ends with the prompt's closing token, the tokenizer's EOS, or one that the model's own generation config
    names. ``options`` go to ``generate``. Raises UserError where prompt and text do not fit the model's positions.
    """
    from transformers import LogitsProcessorList

    stops = sorted({*stops_of(base), *(prompt.close for prompt in prompts)})
    length = max(len(prompt.ids) for prompt in prompts)
    _check_fits(base, length, sampling)
    ids = [[base.pad_id] * (length - len(p.ids)) + list(p.ids) for p in prompts]
    mask = [[0] * (length - len(p.ids)) + [1] * len(p.ids) for p in prompts]
    model.eval()
    with _own_config(model, base, stops, sampling):
        found = model.generate(
            input_ids=torch.tensor(ids, device=base.device),
            attention_mask=torch.tensor(mask, device=base.device),
            logits_processor=LogitsProcessorList(sampling.processors([p.key for p in prompts])),
            **options,
        )
    return [_until(row, set(stops)) for row in found[:, length:].tolist()]


def not_in_one_batch(policy: Any) -> str:
    """Return why base and policy cannot be rows of one batch; empty where they can.

    peft gives every row its adapter, or none, in plain LoRA layers only. It rounds the base's output and adds the
    adapter's part, which in half precision is not the sum that the fused layers compute, so that the texts would not be
    those of the policy that is scored (numerics/fused_lora.py).
    """
    if not hasattr(policy, "peft_config"):
        return "it is no adapter"
    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    if not all(isinstance(layer, LoraLayer) for layer in layers) or any(layer.lora_variant for layer in layers):
        return "its layers are not plain LoRA layers"
    if len(policy.active_adapters) != 1 or any(layer.merged or layer.disable_adapters for layer in layers):
        return "not one adapter is active"
    (config,) = (policy.peft_config[name] for name in policy.active_adapters)
    if config.modules_to_save or config.bias != "none" or getattr(config, "trainable_token_indices", None):
        return "it holds more than LoRA layers"
    return "" if policy.dtype == torch.float32 else "its layers would be summed in another way in half precision"


@contextmanager
def _own_config(model: Any, base: Base, stops: list[int], sampling: Sampling) -> Iterator[None]:
    """Put in place of a model's generation config one that says nothing but ours (else its values fill the gaps)."""
    from transformers import GenerationConfig

    own = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=stops,
        pad_token_id=base.pad_id,
    )
    holders: list[Any] = list({id(m): m for m in (model, _inner(model), base.model)}.values())
    kept = [getattr(m, "generation_config", None) for m in holders]
    try:
        for holder in holders:
            holder.generation_config = own
        yield
    finally:
        for holder, config in zip(holders, kept, strict=True):
            holder.generation_config = config


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def stops_of(base: Base) -> set[int]:
    """The tokenizer's EOS, and the ends of a text that the model's generation config names."""
    named = getattr(getattr(base.model, "generation_config", None), "eos_token_id", None)
    several = [] if named is None else [named] if isinstance(named, int) else list(named)
    return {int(base.tokenizer.eos_token_id), *map(int, several)}


def _until(row: Sequence[int], stops: set[int]) -> Written:
    """The tokens up to the first that ends a text, with it."""
    end = next((i for i, token in enumerate(row) if token in stops), len(row) - 1)
    return Written(tuple(row[: end + 1]), row[end] in stops)


def _check_fits(base: Base, length: int, sampling: Sampling) -> None:
    limit = max_positions(base.model)
    if length + sampling.max_new_tokens > limit:
        raise UserError(
            f"a prompt of {length} tokens and max_new_tokens={sampling.max_new_tokens} do not fit the model's "
            f"{limit:.0f} positions; lower max_new_tokens or data.max_prompt_tokens"
        )
