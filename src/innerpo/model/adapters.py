"""Adapters on a base model: a fresh one, a saved one, and their removal, after which the base is what it was."""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from innerpo.config.run import ModelConfig
from innerpo.errors import UserError
from innerpo.model.base import Base
from innerpo.model.numerics.fused_lora import fuse_lora


def add_adapter(base: Base, config: ModelConfig, seed: int) -> nn.Module:
    """Return the policy: the base with a fresh seeded LoRA adapter or, where lora_r is 0, a trainable copy of it."""
    from peft import LoraConfig, get_peft_model

    if config.lora_r == 0:
        full: nn.Module = copy.deepcopy(base.model)
        return full.requires_grad_(True)
    names = config.target_modules
    target: str | list[str] = names if names == "all-linear" else [n.strip() for n in names.split(",")]
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=target,
        task_type="CAUSAL_LM",
    )
    try:
        policy: nn.Module = get_peft_model(base.model, lora)
    except ValueError as error:
        linear = sorted({n.split(".")[-1] for n, m in base.model.named_modules() if isinstance(m, nn.Linear)})
        raise UserError(
            f"model.target_modules={names!r} fits no module of {base.name!r}; it has {', '.join(linear)}"
        ) from error
    fuse_lora(policy)
    return policy


def load_adapter(base: Base, folder: Path) -> nn.Module:
    """Return the base with the peft adapter that a folder holds. Raises UserError where the two do not fit."""
    from peft import PeftModel

    try:
        policy: nn.Module = PeftModel.from_pretrained(base.model, str(folder))
    except (RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the adapter in {folder} does not fit the base model {base.name!r}: {reason}") from error
    fuse_lora(policy)
    return policy


def remove_adapter(base: Base, policy: Any) -> None:
    """Take a policy's adapter off the base, which is then bit for bit what it was. A copy of the base is left alone."""
    if policy is base.model or not hasattr(policy, "unload"):
        return
    if any(getattr(module, "gradient_checkpointing", False) for module in base.model.modules()):
        kind = "activation" if hasattr(base.model, "activation_checkpointing_disable") else "gradient"  # before 5.23
        getattr(base.model, f"{kind}_checkpointing_disable")()
    if hasattr(base.model, "_require_grads_hook"):  # checkpointing an adapter makes the embedding's output need one
        base.model.disable_input_require_grads()
    policy.unload()
    for name in ("peft_config", "_hf_peft_config_loaded", "_require_grads_hooks", "_require_grads_hook"):
        if name in vars(base.model):
            delattr(base.model, name)
    if base.use_cache is not None:
        base.model.config.use_cache = base.use_cache
    base.model.requires_grad_(False)
    base.model.eval()
