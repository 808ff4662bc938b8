"""The record of a run (run.json): what a reader needs to trust or repeat it."""

import hashlib
import json
import logging
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import innerpo
from innerpo.config.combined import read_combined
from innerpo.config.identity import run_id
from innerpo.config.run import RunConfig
from innerpo.errors import UserError
from innerpo.model.base import Base
from innerpo.model.identity import fingerprint
from innerpo.training.paths import RECORD
from innerpo.training.prepare import Prepared, pairs_per_step

log = logging.getLogger(__name__)


def run_record(config: RunConfig, prepared: Prepared, data_hash: str) -> dict[str, Any]:
    """Return what a reader needs to trust or repeat the run."""
    method, base = prepared.method, prepared.base
    return {
        "run_id": run_id(config),
        "name": config.run_name,
        "method": config.method_label,
        "base_model": config.model.base_model,
        "base_identity": base.identity,
        "base_fingerprint": prepared.fingerprint,
        "dataset": config.data.dataset,
        "n_pairs": len(prepared.items),
        "pairs_per_step": pairs_per_step(config),
        "data_hash": data_hash,
        "layout": prepared.layout.layout,
        "layers": list(method.layers) if method.fit_request is not None else [],
        "site": "" if method.fit_request is None else method.config.site,
        "versions": versions(),
    } | ({"tuned": config.training.tuned} if config.training.tuned else {})


def check_base(folder: Path, base: Base) -> None:
    """Raise UserError where a run's folder says that it was trained on other weights than those of a base model.

    Weights are told apart by a fingerprint that does not depend on their data type, so that a run may be scored on its
    base in another type. Nothing is known of adapters made elsewhere, nor of weights in 4 bits; and of a base in
    float16, where it was not trained in that type, only a warning can be given.
    """
    path, combined = folder / RECORD, read_combined(folder)
    if combined is not None:
        record = {"base_model": combined.base_model, "base_fingerprint": combined.base_fingerprint}
    elif path.is_file():
        record = json.loads(path.read_text())
    else:
        return
    trained, here = record.get("base_fingerprint", ""), fingerprint(base.model)
    if trained and here and trained != here and trained != fingerprint(base.model, torch.float16):
        if base.model.dtype == torch.float16:
            log.warning(f"{folder} was not trained on {base.name!r} in float16; whether on its weights cannot be told")
            return
        raise UserError(
            f"{folder} was trained on {record['base_model']!r} with other weights (fingerprint {trained}) than "
            f"{base.name!r} has ({here}); name the base model that it was trained on in model.base_model"
        )


def inputs_hash(data_hash: str, base: Base, processes: int = 1) -> str:
    """Identity of what a run computes on, beyond its config: token ids, base weights, and processes where several.

    Each process has batches of its own, so that their number changes what an optimiser step is.
    """
    found = hashlib.sha256(f"{data_hash}/{base.identity}".encode()).hexdigest()[:16]
    return found if processes == 1 else f"{found}-{processes}"


def versions() -> dict[str, str]:
    """Versions of everything that can change a result."""
    names = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy")
    return {"innerpo": innerpo.__version__, "python": platform.python_version()} | {
        n: metadata.version(n) for n in names
    }
