"""A content-addressed cache of tensors on disk: atomic writes, checksummed reads; and a bounded one in memory."""

import hashlib
import json
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from innerpo.errors import UserError
from innerpo.files import write_atomically

_CHUNK = 1 << 20


def content_key(**parts: Any) -> str:
    """Return a hash of everything that a cached result depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with a checksum; the file appears by rename."""
    contiguous = {name: t.contiguous() for name, t in sorted(tensors.items())}
    crc = str(_checksum(contiguous))
    write_atomically(path, lambda p: save_file(contiguous, p, metadata={"crc32": crc}))


def load_tensors(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a cache file, memory-mapped; None where there is none.

    Raises UserError, naming the file, where it is not what ``save_tensors`` wrote.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            recorded = (file.metadata() or {}).get("crc32")
    except FileNotFoundError:  # never written, or just deleted to make room
        return None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"cache file {path} is corrupt ({error}); delete it and run again") from error
    if recorded != str(_checksum(tensors)):
        raise UserError(f"cache file {path} is corrupt (checksum differs); delete it and run again")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    crc = 0
    for name, tensor in tensors.items():
        crc = zlib.crc32(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode(), crc)
        data = tensor.flatten().view(torch.uint8).numpy()
        for start in range(0, len(data), _CHUNK):
            crc = zlib.crc32(data[start : start + _CHUNK].tobytes(), crc)
    return crc


class TensorMemory:
    """Cached tensors kept in memory, up to a limit in bytes; what was not asked for longest goes first."""

    def __init__(self, limit_bytes: int = 2_000_000_000) -> None:
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    @property
    def n_bytes(self) -> int:
        """Bytes that are kept now."""
        return sum(t.nbytes for tensors in self._kept.values() for t in tensors.values())

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Return what was kept under a key, or None."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors; they must not be changed in place afterwards. What alone exceeds the limit is not kept."""
        if sum(t.nbytes for t in tensors.values()) > self.limit_bytes:
            return
        self._kept[key] = tensors
        self._kept.move_to_end(key)
        while self._kept and self.n_bytes > self.limit_bytes:
            self._kept.popitem(last=False)
