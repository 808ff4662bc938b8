"""The record of a run (run.json): what a reader needs to trust or repeat it."""

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import innerpo
from innerpo.config.identity import run_id
from innerpo.config.run import RunConfig
from innerpo.data.tokens import PromptItem
from innerpo.methods.method import Method
from innerpo.model.base import Base
from innerpo.model.forward.layout import LayoutChoice


def run_record(config: RunConfig, n_pairs: int, data_hash: str, method: Method, layout: LayoutChoice) -> dict[str, Any]:
    """Return what a reader needs to trust or repeat the run."""
    return {
        "run_id": run_id(config),
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
