"""What a run's folder holds: the adapter, directions, config, provenance, metrics and a model card."""

import hashlib
import json
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import innerpo
from innerpo.config.run import RunConfig, to_dict
from innerpo.config.yaml import read_run_config
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.files import machine_errors, staged_directory, write_atomically, write_text
from innerpo.methods.inner_reward import InnerReward
from innerpo.methods.method import Method
from innerpo.methods.records import Directions
from innerpo.methods.transforms.transform import Transform
from innerpo.model.adapters import load_adapter, remove_adapter
from innerpo.model.base import Base
from innerpo.model.forward.layout import LayoutChoice
from innerpo.training.run_folder import CHECKPOINTS, RECORD

DIRECTIONS = "directions.safetensors"


def save_run(
    folder: Path, model: Any, tokenizer: Any, method: Method, record: dict[str, Any], card: str, weights: Any = None
) -> None:
    """Save the adapter as peft saves it, and beside it directions, record and card. The record comes last.

    A frozen method has no adapter: its directions are the run. ``weights`` is the gathered state dict of a policy that
    lies in pieces on several devices.
    """
    for left in folder.glob(".adapter.*"):  # of a run that was killed while it saved
        shutil.rmtree(left, ignore_errors=True)
    with staged_directory(folder / "adapter") as staging:
        if not method.config.frozen:
            model.save_pretrained(staging, state_dict=weights)
        if not method.config.frozen and not (staging / "adapter_config.json").is_file():
            tokenizer.save_pretrained(staging)  # a whole model is used with its own tokenizer
        if method.directions is not None:
            save_directions(staging / DIRECTIONS, method)
        (staging / "README.md").write_text(card)
    with machine_errors(folder):
        for path in sorted((folder / "adapter").iterdir()):
            path.chmod(0o644)  # safetensors writes for its owner alone
            path.replace(folder / path.name)
        (folder / "adapter").rmdir()
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def run_record(config: RunConfig, n_pairs: int, data_hash: str, method: Method, layout: LayoutChoice) -> dict[str, Any]:
    """Return what a reader needs to trust or repeat the run."""
    return {
        "run_id": config.run_id(),
        "name": config.run_name,
        "method": config.method_label,
        "base_model": config.model.base_model,
        "dataset": config.data.dataset,
        "n_pairs": n_pairs,
        "data_hash": data_hash,
        "layout": layout.layout,
        "layers": list(method.layers) if method.request is not None else [],
        "site": "" if method.request is None else method.config.site,
        "versions": versions(),
    }


def is_frozen(folder: Path) -> bool:
    """Whether a folder is a run that trained nothing: directions of the base model (``probe``)."""
    config = read_run_config(folder)
    return config is not None and config.method.frozen and (folder / DIRECTIONS).is_file()


def check_adapter(folder: Path) -> None:
    """Raise UserError where a folder holds neither an adapter nor a fine-tuned model, nor is a frozen run."""
    if is_frozen(folder):
        return
    if not (folder / "adapter_config.json").is_file() and not list(folder.glob("model*.safetensors")):
        raise UserError(
            f"{folder} holds no adapter_config.json and no model.safetensors; give the folder of a finished run or "
            "of a peft adapter"
        )


def load_policy(base: Base, folder: Path) -> Any:
    """Return the model of a run: its adapter on the base, the fully fine-tuned weights, or (frozen) the base."""
    if is_frozen(folder):
        return base.model
    if (folder / "adapter_config.json").is_file():
        return load_adapter(base, folder)
    attention = base.model.config._attn_implementation
    policy = type(base.model).from_pretrained(folder, dtype=base.model.dtype, attn_implementation=attention)
    return policy.to(base.model.device)


@contextmanager
def loaded_policy(base: Base, folder: Path) -> Iterator[Any]:
    """Put a run's adapter on the base; take it off at the end."""
    policy = load_policy(base, folder)
    try:
        yield policy
    finally:
        remove_adapter(base, policy)


def save_directions(path: Path, method: Method) -> None:
    """Write directions and transform as safetensors."""
    directions = method.directions
    assert directions is not None
    tensors = {
        "w": directions.w,
        "scale": directions.scale,
        "layer_weights": directions.layer_weights,
        "accuracy": directions.accuracy,
        "token_spread": directions.token_spread,
        "layers": torch.tensor(method.layers),
    }
    if directions.token_rms is not None:
        tensors["token_rms"] = directions.token_rms
    if method.transform.basis is not None:
        tensors["transform_basis"] = method.transform.basis
    header = {
        "transform": method.transform.name,
        "pool": method.config.pool,
        "own": repr(directions.own),
        "site": method.config.site,
    }
    write_atomically(path, lambda p: save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, p, header))


def load_directions(folder: Path) -> InnerReward | None:
    """Return the fitted directions of a run, or None where it has none."""
    path = folder / DIRECTIONS
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        directions = Directions(
            found["w"],
            found["scale"],
            found["layer_weights"],
            found["accuracy"],
            found["token_spread"],
            float(header["own"]),
            found.get("token_rms"),
        )
        layers = tuple(int(i) for i in found["layers"])
        transform = Transform(header["transform"], found.get("transform_basis"))
        return InnerReward(layers, transform, directions, header["pool"], header["site"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a directions file of innerpo: {error}") from error


def scores_folder(folder: Path, config: RunConfig) -> Path:
    """Where the scores of a folder belong: beside the adapter, or, on other columns than the run's own, beneath it."""
    own = read_run_config(folder)
    chosen = _what_is_scored(config)
    if own is None or chosen == _what_is_scored(own):
        return folder
    return folder / f"eval-{hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]}"


def _what_is_scored(config: RunConfig) -> dict[str, Any]:
    """All that changes scores of a given adapter: columns, their tokens, the base model."""
    plain = to_dict(config)
    for name in ("batch_size", "bootstrap", "format", "skip"):
        plain["eval"].pop(name)
    if not config.eval.steer:  # as folders were named before there was a choice
        plain["eval"].pop("steer")
    data = {n: plain["data"][n] for n in ("dataset", "max_prompt_tokens", "max_response_tokens", "seed", "on_bad_row")}
    model = {n: plain["model"][n] for n in ("base_model", "revision", "dtype", "load_in_4bit")}
    return {"eval": plain["eval"], "data": data, "model": model}


def inputs_hash(data_hash: str, base: Base) -> str:
    """Identity of what a run computes on, beyond its config: token ids and base weights."""
    return hashlib.sha256(f"{data_hash}/{base.identity}".encode()).hexdigest()[:16]


def hash_of_tokens(items: Sequence[PromptItem]) -> str:
    """Hash of the token ids that were trained on."""
    return hashlib.sha256(json.dumps([(i.prompt, i.responses) for i in items]).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of everything that can change a result."""
    names = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy")
    return {"innerpo": innerpo.__version__, "python": platform.python_version()} | {
        n: metadata.version(n) for n in names
    }
