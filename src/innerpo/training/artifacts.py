"""What a run's folder holds: its weights, directions, record and model card, saved together and loaded again."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from innerpo.config.yaml import read_run_config
from innerpo.errors import UserError, first_line
from innerpo.files import FILE_MODE, staging_folder, write_text
from innerpo.methods.method import Method
from innerpo.model.adapters import load_adapter, remove_adapter
from innerpo.model.base import Base
from innerpo.training.directions_file import DIRECTIONS, save_directions
from innerpo.training.paths import CHECKPOINTS, RECORD


def save_run(
    folder: Path, model: Any, tokenizer: Any, method: Method, record: dict[str, Any], card: str, weights: Any = None
) -> None:
    """Save the adapter as peft saves it, and beside it directions, record and card. The record comes last.

    A frozen method has no adapter: its directions are the run. ``weights`` is the gathered state dict of a policy that
    lies in pieces on several devices.
    """
    for left in folder.glob(".adapter.*"):  # of a run that was killed while it saved
        shutil.rmtree(left, ignore_errors=True)
    with staging_folder(folder / "adapter") as staging:
        if not method.config.frozen:
            model.save_pretrained(staging, state_dict=weights)
        if not method.config.frozen and not (staging / "adapter_config.json").is_file():
            tokenizer.save_pretrained(staging)  # a whole model is used with its own tokenizer
        if method.inner_reward is not None:
            save_directions(staging / DIRECTIONS, method.inner_reward)
        (staging / "README.md").write_text(card)
        for path in sorted(staging.iterdir()):
            path.chmod(FILE_MODE)  # safetensors writes for its owner alone
            path.replace(folder / path.name)
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    for left in (*(folder / CHECKPOINTS).glob("checkpoint-*"), folder / CHECKPOINTS / ".partial"):
        shutil.rmtree(left, ignore_errors=True)
    with suppress(OSError):  # what trackers of transformers wrote there stays
        (folder / CHECKPOINTS).rmdir()


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
    """Return the model of a run: its adapter on the base, the fully fine-tuned weights, or (frozen) the base.

    Raises UserError where the files cannot be loaded, or do not fit the base.
    """
    if is_frozen(folder):
        return base.model
    if (folder / "adapter_config.json").is_file():
        return load_adapter(base, folder)
    attention = base.model.config._attn_implementation
    try:
        policy = type(base.model).from_pretrained(folder, dtype=base.model.dtype, attn_implementation=attention)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot load the model in {folder}: {first_line(error)}") from error
    return policy.to(base.model.device)


@contextmanager
def loaded_policy(base: Base, folder: Path) -> Iterator[Any]:
    """Put a run's adapter on the base; take it off at the end."""
    policy = load_policy(base, folder)
    try:
        yield policy
    finally:
        remove_adapter(base, policy)
