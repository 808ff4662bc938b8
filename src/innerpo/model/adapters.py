"""Adapters on a base model: a fresh one, a saved one, and their removal, after which the base is what it was."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from innerpo.config.model import ModelConfig
from innerpo.errors import UserError, one_line
from innerpo.model.base import Base
from innerpo.model.coverage import excluded_from_all_linear, linear_names, log_weights_without_adapter
from innerpo.model.forward.blocks import blocks_name, decoder_blocks
from innerpo.model.layer_spec import ALL, adapted_layers
from innerpo.model.numerics.fused_lora import fuse_lora

# Adapters that need task ids, or run the model more than once.
UNSUPPORTED = ("POLY", "XLORA", "SHADOW")
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""peft's ways to start a LoRA adapter that leave the base's weights as they are (PiSSA, OLoRA, LoftQ, ... do not)."""


def add_adapter(base: Base, config: ModelConfig, seed: int) -> nn.Module:
    """Return the policy: the base with a fresh seeded LoRA adapter or, where lora_r is 0, a trainable copy of it."""
    from peft import LoraConfig, get_peft_model

    check_bare(base)
    if config.lora_r == 0:
        full: nn.Module = copy.deepcopy(base.model)
        return full.requires_grad_(True)
    names, excluded = config.target_modules, None
    target: str | list[str] = names if names == "all-linear" else [n.strip() for n in names.split(",")]
    if names == "all-linear":
        excluded = excluded_from_all_linear(base.model)
    some = None if config.adapt_layers == ALL else list(adapted_layers(config.adapt_layers, base.n_blocks))
    if some is not None and names == "all-linear":
        target = linear_names(base.model, some)
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=target,
        exclude_modules=excluded,
        layers_to_transform=some,
        layers_pattern=None if some is None else blocks_name(base.model).split(".")[-1],
        task_type="CAUSAL_LM",
    )
    try:
        with _restored_on_failure(base):
            policy: nn.Module = get_peft_model(base.model, lora)
            if some is not None:
                _check_blocks(policy, some, base)
            fuse_lora(policy)
            if names == "all-linear":
                log_weights_without_adapter(policy, some)
            return policy
    except ValueError as error:
        if "not found in the base model" not in str(error):
            reason = one_line(error, 200)
            raise UserError(f"model.target_modules={names!r} cannot be adapted in {base.name!r}: {reason}") from error
        linear = sorted({n.split(".")[-1] for n, m in base.model.named_modules() if isinstance(m, nn.Linear)})
        raise UserError(
            f"model.target_modules={names!r} fits no module of {base.name!r}; it has {', '.join(linear)}"
        ) from error


def _check_blocks(policy: Any, wanted: Sequence[int], base: Base) -> None:
    """Raise UserError where peft adapts other blocks too: experts that are one parameter it adapts everywhere."""
    blocks = enumerate(decoder_blocks(policy))
    others = [str(i) for i, b in blocks if i not in wanted and any(hasattr(m, "base_layer") for m in b.modules())]
    if others:
        policy.unload()
        raise UserError(
            f"model.adapt_layers: peft adapts the experts of {base.name!r} in every block (also in "
            f"{', '.join(others)}); name modules without them, e.g. model.target_modules=q_proj,k_proj,v_proj,o_proj"
        )


def load_adapter(base: Base, folder: Path, spent: bool = False) -> nn.Module:
    """Return the base with the peft adapter that a folder holds. ``spent``: the base is not used as such again.

    Raises UserError if the two do not fit, or if the adapter is not one that changes weights (prompt tuning, ...) and,
    unless the base is spent, leaves those of the base as they are.
    """
    from peft import PeftModel

    check_bare(base)
    config = _check_changes_weights(folder)
    if not spent and (what := changes_base(config)):
        raise UserError(
            f"the adapter in {folder} has {what}, which changes the base's own weights, so that there is no base to "
            "compare with once it is loaded; merge it (innerpo.merge) and give the merged model, or save it as a plain "
            "LoRA (peft's path_initial_model_for_weight_conversion)"
        )
    try:
        with _restored_on_failure(base):
            policy: nn.Module = PeftModel.from_pretrained(base.model, str(folder))
            fuse_lora(policy)
            return policy
    except (RuntimeError, ValueError, SafetensorError) as error:
        reason = one_line(error, 200)
        raise UserError(f"the adapter in {folder} does not fit the base model {base.name!r}: {reason}") from error


def check_bare(base: Base) -> None:
    """Raise UserError where an adapter is on the base: reference outputs would be those of the adapted model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, BaseTunerLayer) for module in base.model.modules()):
        raise UserError(
            f"an adapter is on the base model {base.name!r}; take it off first (innerpo.remove_adapter(base, policy))"
        )


def remove_adapter(base: Base, policy: Any) -> None:
    """Take a policy's adapter off the base, which is then bit for bit what it was. A copy of the base is left alone."""
    from peft.utils.other import ModulesToSaveWrapper

    if policy is base.model or not hasattr(policy, "unload"):
        return
    if any(getattr(module, "gradient_checkpointing", False) for module in base.model.modules()):
        kind = "activation" if hasattr(base.model, "activation_checkpointing_disable") else "gradient"  # before 5.23
        getattr(base.model, f"{kind}_checkpointing_disable")()
    for module in base.model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module._active_adapter = []  # else unloading leaves the trained copy in the place of the base's module
    if hasattr(base.model, "_require_grads_hook"):  # checkpointing an adapter makes the embedding's output need one
        base.model.disable_input_require_grads()
    policy.unload()
    _forget_adapter(base.model)
    if base.use_cache is not None:
        base.model.config.use_cache = base.use_cache
    base.model.requires_grad_(False)
    base.model.eval()


def merge_adapter(base: Base, policy: Any) -> Any:
    """Return the base with the adapter's update added to its weights, in their own type: W + s B A. The base is spent.

    Raises UserError where an update is not finite, or belongs to an embedding that shares its weights with the LM head.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = (base.model.get_input_embeddings(), base.model.get_output_embeddings())
    if getattr(base.model.config, "tie_word_embeddings", False) and any(isinstance(e, BaseTunerLayer) for e in ends):
        raise UserError(
            f"the adapter is on the embedding or the LM head of {base.name!r}, which share their weights; it cannot be "
            "merged, since it would change both"
        )
    try:
        merged = policy.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"the adapter cannot be merged into {base.name!r}: {one_line(error)}") from error
    _forget_adapter(merged)
    return merged


def _forget_adapter(model: Any) -> None:
    """Delete what peft leaves on a model whose adapter is gone."""
    for name in ("peft_config", "_hf_peft_config_loaded", "_require_grads_hooks", "_require_grads_hook"):
        if name in vars(model):
            delattr(model, name)


@contextmanager
def _restored_on_failure(base: Base) -> Iterator[None]:
    """Take half an adapter off the base where putting it on fails or is interrupted."""
    try:
        yield
    except BaseException:
        take_off_parts(base.model)
        raise


def take_off_parts(model: nn.Module) -> None:
    """Restore the modules that peft had wrapped before it raised an error."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "base_layer") and not hasattr(parent, "base_layer"):
                setattr(parent, name, child.base_layer)
            elif hasattr(child, "original_module"):  # modules_to_save, trained tokens
                setattr(parent, name, child.original_module)
    model.requires_grad_(False)
    if "peft_config" in vars(model):
        del model.peft_config


def variants_of(layer: Any) -> list[str]:
    """Return the names of what a LoRA layer does beside adding s B A x (DoRA, ...); empty for other layers."""
    return [type(v).__name__ for v in getattr(layer, "lora_variant", {}).values() if v is not None]


def changes_base(config: Any) -> str:
    """Return what in a peft config changes the base's own weights, so that they stay changed with the adapter off."""
    bias, start = getattr(config, "bias", "none"), getattr(config, "init_lora_weights", True)
    if bias != "none":
        return f"bias={bias}"
    if start not in PLAIN_STARTS:
        return f"init_lora_weights={start}"
    return "layer_replication" if getattr(config, "layer_replication", None) else ""


def _check_changes_weights(folder: Path) -> Any:
    """Return an adapter's config. Refuse adapters that add tokens or need more inputs than token ids: rows of several
    responses have no place for them, and positions and masks would be wrong.
    """
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'adapter_config.json'} is no peft adapter that this peft knows: {error}") from error
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning or config.is_adaption_prompt or kind in UNSUPPORTED:
        raise UserError(
            f"the adapter in {folder} is of peft's kind {kind}, which does not only change weights; give one that "
            "does (LoRA, DoRA, AdaLoRA, IA3, LoHa, LoKr, OFT, BOFT, VeRA, ...)"
        )
    return config
