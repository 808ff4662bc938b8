"""LoRA adapters in folders: read as updates of weights, and written again. Other kinds of adapters are refused."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from innerpo.errors import UserError
from innerpo.model.adapters import changes_base
from innerpo.model.lora_sum import Factors, Update

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAMES = ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B")
BESIDE = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "modules_to_save", "trainable_token_indices"),
    *("target_parameters", "alora_invocation_tokens", "arrow_config", "kasa_config"),
    *("velora_config", "monteclora_config", "megatron_config", "ensure_weight_tying"),
)
"""Fields of a LoRA's config with which its update is not a scaled product B A alone."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config of a plain LoRA adapter. Raises UserError for any other kind."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} holds no {CONFIG}; only LoRA adapters can be combined")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{folder} holds an adapter of the kind {kind}; only LoRA adapters can be combined")
    beside = [f"{name}={config[name]}" for name in BESIDE if config.get(name)]
    if what := changes_base(SimpleNamespace(**config)):
        beside.append(what)
    if beside:
        raise UserError(f"{folder} cannot be combined: its adapter has {', '.join(beside)}, so it is no plain LoRA")
    return config


def read_update(folder: Path) -> dict[str, Factors]:
    """Return the update of a plain LoRA adapter, scales included. Raises UserError where it cannot be read."""
    config, path = read_config(folder), folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder} holds no {WEIGHTS}; save the adapter as safetensors to combine it")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.endswith(".base_layer.weight"):  # peft saves the base's own embedding beside an adapter on it
            continue
        module, part = _split(key)
        if not part or tensor.ndim != 2:
            raise UserError(f"{path}: {key} {tuple(tensor.shape)} is no factor of a matrix, so it cannot be combined")
        found.setdefault(module, {})[part] = tensor
    return {name: _scaled(parts, name, config) for name, parts in found.items()}


def write_update(folder: Path, update: Update, like: Mapping[str, Any]) -> None:
    """Write an update as a peft LoRA adapter of scale 1, each module with the rank of its factors."""
    ranks = {name: factors.rank for name, factors in update.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: r for name, r in sorted(ranks.items(), key=lambda at: -len(at[0])) if r != usual}
    tensors = {}
    for name, factors in update.items():
        a, b = _NAMES[2:] if factors.looked_up else _NAMES[:2]
        tensors[f"{_PREFIX}{name}.{a}"] = factors.down.contiguous()
        tensors[f"{_PREFIX}{name}.{b}"] = factors.up.contiguous()
    kept = {name: like.get(name) for name in ("base_model_name_or_path", "revision", "fan_in_fan_out", "task_type")}
    config = kept | {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": {re.escape(n): r for n, r in others.items()},
        "alpha_pattern": {re.escape(n): r for n, r in others.items()},
        "lora_dropout": 0.0,
        "target_modules": sorted(ranks),
        "bias": "none",
        "inference_mode": True,
    }
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _split(key: str) -> tuple[str, str]:
    """The module that a tensor of an adapter's file belongs to, and which of _NAMES it is; "" for anything else."""
    part = next((name for name in _NAMES if key.endswith(f".{name}")), "")
    return key.removesuffix(f".{part}").removeprefix(_PREFIX), part


def _scaled(parts: Mapping[str, Tensor], module: str, config: Mapping[str, Any]) -> Factors:
    """The factors of a module, its scale on B: alpha / r, or alpha / sqrt(r) for rslora."""
    looked_up = _NAMES[2] in parts
    down, up = (parts[name] for name in (_NAMES[2:] if looked_up else _NAMES[:2]))
    rank = down.shape[0]
    alpha = _of_pattern(config.get("alpha_pattern") or {}, module, float(config.get("lora_alpha", 8)))
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return Factors((scale * up.double()).to(up.dtype), down, looked_up)


def _of_pattern(patterns: Mapping[str, Any], module: str, usual: float) -> float:
    """The value of the first pattern that fits the end of a module's name, as peft reads them."""
    return next((float(v) for pattern, v in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), usual)
