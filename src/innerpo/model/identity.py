"""Identify a model by content, and the environment that computes with it. Both are part of every cache key."""

import hashlib
import inspect
import json
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from innerpo.errors import UserError
from innerpo.files import write_text
from innerpo.model.numerics import VERSION
from innerpo.model.numerics.hardware import multiplies_in_float32

# Config fields that do not change what a model computes (its type is part of the weights' hash).
PROVENANCE = (
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "_commit_hash",
    "architectures",
    "dtype",
    "use_cache",
)
LIBRARIES = ("torch.", "transformers.", "peft.", "accelerate.", "bitsandbytes.", "innerpo.")
# Below this size a file is hashed anew each time; above, its hash is kept on disk.
SMALL_FILE = 1_000_000
# A file changed this recently may change again without its times showing it: its hash is not kept.
SETTLED_SECONDS = 2.0


def hash_of_weights(model: Any) -> str:
    """Return a hash of a model in memory: config, code outside the libraries, all parameters and persistent buffers."""
    digest = hashlib.sha256()
    config = {k: v for k, v in model.config.to_dict().items() if k not in PROVENANCE}
    digest.update(json.dumps([type(model).__qualname__, config], sort_keys=True, default=str).encode())
    digest.update(_code_in_memory(model).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return f"memory-{digest.hexdigest()[:32]}"


def hash_of_source(model: Any, source: str, cache_dir: Path) -> str:
    """Return the identity of a loaded model: its Hub commit, or a hash of a local folder's weights, configs and code.

    Code that transformers fetched from the Hub for the model (``model.trust_remote_code``) is part of either. Raises
    UserError if the version of a Hub model is unknown.
    """
    folder, remote = Path(source), _remote_code(model, cache_dir)
    if not folder.is_dir():
        commit = getattr(model.config, "_commit_hash", None)
        if commit:
            return f"{source}@{commit}{f'+{remote}' if remote else ''}"
        raise UserError(
            f"cannot tell which version of {source!r} was loaded; set model.revision, or load it from a local folder"
        )
    files = [p for p in folder.iterdir() if p.suffix in (".safetensors", ".json")] + list(folder.rglob("*.py"))
    return _hash_of_files(folder, files, cache_dir, remote)


def hash_of_adapter(folder: Path, cache_dir: Path) -> str:
    """Return a hash of the files that make a policy of a folder: adapter or whole model, and directions."""
    names = ("adapter_config.json", "adapter_model.*", "model*.safetensors", "directions.safetensors")
    files = [path for name in names for path in folder.glob(name)]
    return _hash_of_files(folder, files, cache_dir)


def fingerprint(model: nn.Module, through: torch.dtype = torch.float32) -> str:
    """Return a hash of a model's weights that is the same in float32 and bfloat16; '' for quantised weights.

    Of every parameter: name, shape, and the values at up to 1,024 evenly spaced places, rounded to bfloat16. It tells
    one model from another, not one changed value. In float16 the least values have other roundings: ``through`` that
    type it is what the model would have there.
    """
    digest = hashlib.sha256()
    for name, p in sorted(model.named_parameters()):
        if not p.is_floating_point():
            return ""
        flat = p.detach().flatten()
        some = flat[:: max(1, len(flat) // 1024)].cpu().to(through).to(torch.bfloat16).contiguous()
        digest.update(f"{name}{tuple(p.shape)}".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def environment_key(model: Any) -> dict[str, Any]:
    """Return what changes a model's numbers beside its identity and inputs, as parts of a cache key.

    The implementations of attention and experts, the type of device, whether half-precision products are computed in
    float32, the versions of torch and transformers, and that of InnerPO's own numerics.
    """
    weight = next(p for p in model.parameters() if p.is_floating_point())
    return {
        "attention": model.config._attn_implementation,
        "experts": getattr(model.config, "_experts_implementation", None),
        "device": weight.device.type,
        "products": "float32" if multiplies_in_float32(weight.dtype, weight.device) else str(weight.dtype),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "numerics": VERSION,
    }


def _remote_code(model: Any, cache_dir: Path) -> str:
    """Return a hash of the files of the model's class where transformers fetched them from a repository; else ''."""
    if not type(model).__module__.startswith("transformers_modules."):
        return ""
    path = inspect.getsourcefile(type(model))
    if path is None:
        return ""
    folder = Path(path).parent
    return _hash_of_files(folder, folder.glob("*.py"), cache_dir)


def _code_in_memory(model: nn.Module) -> str:
    """Return the source text of the classes of modules that no library defines."""
    kinds = {type(module) for module in model.modules()}
    own = sorted((k for k in kinds if not k.__module__.startswith(LIBRARIES)), key=lambda k: k.__qualname__)
    return "".join(_sources(own))


def _sources(kinds: Iterable[type]) -> Iterator[str]:
    for kind in kinds:
        try:
            yield inspect.getsource(kind)
        except (OSError, TypeError):  # defined in an interactive session
            yield kind.__qualname__


def _hash_of_files(folder: Path, files: Iterable[Path], cache_dir: Path, more: str = "") -> str:
    parts = [f"{path.relative_to(folder)}:{_file_hash(path, cache_dir)}" for path in sorted(files)]
    return hashlib.sha256("\n".join([*parts, more]).encode()).hexdigest()[:32]


def _file_hash(path: Path, cache_dir: Path) -> str:
    """Return a file's SHA-256; that of a large file is kept on disk, since weights are many gigabytes.

    It is kept by all that shows a replaced file: path, inode, size, times of modification and of the inode's change.
    The last cannot be set by a program, so that a copy with the old modification time is a new file.
    """
    stat = path.stat()
    if stat.st_size <= SMALL_FILE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    shown = f"{path.resolve()}|{stat.st_dev}|{stat.st_ino}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
    memo = cache_dir / "hashes" / f"{hashlib.sha256(shown.encode()).hexdigest()[:32]}.json"
    if memo.is_file():
        try:
            return str(json.loads(memo.read_text())["sha256"])
        except (ValueError, KeyError):
            memo.unlink(missing_ok=True)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED_SECONDS:
        write_text(memo, json.dumps({"sha256": digest, "path": str(path)}))
    return digest
