"""Identify a model's weights by content. The identity is part of every cache key."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from innerpo.errors import UserError
from innerpo.files import write_text


def hash_of_weights(model: nn.Module) -> str:
    """Return a hash of the names, shapes, types and values of all parameters and persistent buffers of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return f"memory-{digest.hexdigest()[:32]}"


def hash_of_source(model: Any, source: str, cache_dir: Path) -> str:
    """Return the identity of a loaded model: its Hub commit, or a hash of a local folder's weight and config files."""
    folder = Path(source)
    if not folder.is_dir():
        commit = getattr(model.config, "_commit_hash", None)
        if commit:
            return f"{source}@{commit}"
        raise UserError(
            f"cannot tell which version of {source!r} was loaded; set model.revision, or load it from a local folder"
        )
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json"))
    return hashlib.sha256("".join(_file_hash(p, cache_dir) for p in files).encode()).hexdigest()[:32]


def _file_hash(path: Path, cache_dir: Path) -> str:
    """Return a file's SHA-256, stored by (path, size, modification time) since weights are many gigabytes."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:32]
    memo = cache_dir / "hashes" / f"{key}.json"
    if memo.is_file():
        try:
            return str(json.loads(memo.read_text())["sha256"])
        except (ValueError, KeyError):
            memo.unlink(missing_ok=True)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.st_size > 1_000_000:
        write_text(memo, json.dumps({"sha256": digest, "path": str(path)}))
    return digest
