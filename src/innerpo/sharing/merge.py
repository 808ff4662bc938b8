"""Merge: a run's adapter added to its base, saved as a model that plain transformers and vLLM load."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from innerpo.config.labels import label_of_folder
from innerpo.config.model import Dtype
from innerpo.config.run import RunConfig
from innerpo.errors import UserError
from innerpo.files import FILE_MODE, cache_root, new_folder, staged_directory
from innerpo.model.adapters import load_adapter, merge_adapter
from innerpo.model.base import Base
from innerpo.model.loading import load_base, model_source
from innerpo.sharing.bases import hub_id, name_of_base
from innerpo.training import artifacts
from innerpo.training.record import check_base

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merged:
    """A merged model: its folder, the data type of its weights, their number in millions."""

    folder: Path
    dtype: str
    millions: float


def merge_run(folder: Path, config: RunConfig, out: Path, dtype: Dtype = "auto") -> Merged:
    """Write base + adapter as a model of its own into a new folder, with tokenizer, generation config and card.

    Every adapted weight is W + s B A, computed in float32 from the base's own weights and rounded once to ``dtype``;
    auto is the type in which the base is stored. The folder appears whole or not at all. Raises UserError for a folder
    without an adapter, a base in 4 bits or with other weights than the run's, and where ``out`` holds something.
    """
    check_mergeable(folder, config)
    target = new_folder(out, "the merged model")
    whole = replace(config.model, dtype="float32")
    base = load_base(whole, cache_root(config.data.cache_dir))
    check_base(folder, base)
    kind = _stored_dtype(config, base) if dtype == "auto" else getattr(torch, dtype)
    model = merge_adapter(base, load_adapter(base, folder, spent=True))
    _round(model, kind)
    name = str(kind).removeprefix("torch.")
    with staged_directory(target) as staging:
        model.save_pretrained(staging)
        base.tokenizer.save_pretrained(staging)
        (staging / "README.md").write_text(_card(folder, config, name))
        for path in staging.iterdir():
            path.chmod(FILE_MODE)  # safetensors writes for its owner alone
    return Merged(out, name, sum(p.numel() for p in model.parameters()) / 1e6)


def check_mergeable(folder: Path, config: RunConfig) -> None:
    """Raise UserError where a folder has no adapter to merge, or its base has no weights to add it to."""
    check_trained_adapter(folder, config, "merge")
    if config.model.load_in_4bit:
        raise UserError(
            f"{folder} was trained on {config.model.base_model!r} in 4 bits (model.load_in_4bit); its adapter cannot "
            "be merged into weights that it was not trained on"
        )


def check_trained_adapter(folder: Path, config: RunConfig, what: str) -> None:
    """Raise UserError where a folder has no adapter; ``what`` was to be done to it (merge, export)."""
    artifacts.check_adapter(folder)
    if artifacts.is_frozen(folder):
        raise UserError(f"{folder} trained nothing ({config.method_label}), so there is no adapter to {what}")
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} is a full fine-tune: it is a whole model already, which transformers loads as it is")


def _stored_dtype(config: RunConfig, base: Base) -> torch.dtype:
    """The type of the weights in the base's own files."""
    from transformers import AutoConfig

    m = config.model
    source = model_source(m, cache_root(config.data.cache_dir))
    found = AutoConfig.from_pretrained(source, revision=m.revision, trust_remote_code=m.trust_remote_code).dtype
    return found if isinstance(found, torch.dtype) else base.model.dtype


@torch.no_grad()
def _round(model: Any, dtype: torch.dtype) -> None:
    model.to(dtype)
    wrong = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    if wrong:
        kind = str(dtype).removeprefix("torch.")
        raise UserError(f"{wrong[0]} has values that {kind} cannot hold; merge it in bfloat16 or float32")


def _card(folder: Path, config: RunConfig, dtype: str) -> str:
    base = config.model.base_model
    known = hub_id(base)
    relation = f"base_model: {known}\nbase_model_relation: finetune\n" if known else ""
    label = label_of_folder(folder, config)
    return f"""---
library_name: transformers
{relation}tags: [innerpo, preference-optimisation, merged]
---

# {folder.resolve().name}, merged

`{known or name_of_base(base)}` with the adapter of the run `{folder.resolve().name}` (method `{label}`), merged in
float32 and saved in {dtype}. It needs neither peft nor InnerPO:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

The model inherits the limits and the licence of its base model; it was trained for research on generalisation, not for
deployment.
"""
