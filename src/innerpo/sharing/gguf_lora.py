"""A run's LoRA adapter as a GGUF file, which llama.cpp puts on the base model."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from innerpo.config.run import RunConfig
from innerpo.errors import UserError, first_line
from innerpo.files import cache_root, write_atomically
from innerpo.model.loading import model_source
from innerpo.model.lora_sum import Factors
from innerpo.sharing.merge import check_trained_adapter
from innerpo.training.lora_files import read_update

log = logging.getLogger(__name__)

FILE = "adapter.gguf"


@dataclass(frozen=True)
class Family:
    """A model type of transformers in GGUF: the name of its architecture there, and whether it stores the rows of the
    query and key projections in the order of llama.cpp's rotary positions (pairs of neighbours, not halves of a head).
    """

    architecture: str
    permuted: bool = False


FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", permuted=True),
    "mistral": Family("llama", permuted=True),
    "smollm3": Family("smollm3", permuted=True),
    "granite": Family("granite", permuted=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma2": Family("gemma2"),
    "gemma3_text": Family("gemma3"),
    "olmo2": Family("olmo2"),
    "phi3": Family("phi3"),
}
"""Dense decoders whose weights llama.cpp's converter renames, and at most permutes as said; no others are written."""


def export_lora(folder: Path, config: RunConfig, out: Path) -> Path:
    """Write a run's adapter as ``adapter.gguf`` into a folder; return the file.

    Scales are multiplied into B, so that llama.cpp's own (alpha / rank) is 1. Raises UserError for an adapter that is
    no plain LoRA or is not on the linear maps of blocks alone, and for architectures whose layout in GGUF is not known
    here.
    """
    check_trained_adapter(folder, config, "export")
    update, model = read_update(folder), _model_config(config)
    family = _family(model)
    tensors = gguf_tensors(update, model, family)
    rank = max(factors.rank for factors in update.values())
    path = out / FILE
    write_atomically(path, lambda temporary: _write(temporary, tensors, family, rank, folder.resolve().name))
    log.info(f"{len(update)} modules of {family.architecture}, rank up to {rank}")
    return path


def gguf_tensors(update: Mapping[str, Factors], model: Any, family: Family) -> dict[str, Float[Tensor, "_ _"]]:
    """Return A and B of every module as ``NAME.weight.lora_a`` and ``.lora_b``, NAME as in GGUF.

    B is multiplied by rank / R, R the largest rank: with alpha = R llama.cpp's factor alpha / rank then cancels it.
    """
    import gguf

    architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
    names = gguf.get_tensor_name_map(architecture, model.num_hidden_layers)
    largest = max(factors.rank for factors in update.values())
    heads = {"q_proj": model.num_attention_heads, "k_proj": model.num_key_value_heads}
    found = {}
    for module, factors in sorted(update.items()):
        name = names.get_name(module)
        if name is None or not name.startswith("blk.") or factors.looked_up:
            raise UserError(f"the adapter is on {module}, which has no place in a GGUF adapter here; only blocks have")
        last = module.rpartition(".")[2]
        up = permuted(factors.up, heads[last]) if family.permuted and last in heads else factors.up
        found[f"{name}.weight.lora_a"] = factors.down.float().contiguous()
        found[f"{name}.weight.lora_b"] = (up.float() * (factors.rank / largest)).contiguous()
    return found


def permuted(rows: Float[Tensor, "out rank"], heads: int) -> Float[Tensor, "out rank"]:
    """Return the rows of a query or key projection in GGUF's order: of each head, row i and row i + half in turn."""
    out, rank = rows.shape
    return rows.reshape(heads, 2, out // heads // 2, rank).transpose(1, 2).reshape(out, rank)


def _family(model: Any) -> Family:
    if (found := FAMILIES.get(model.model_type)) is None:
        raise UserError(
            f"adapters of {model.model_type!r} models are not written as GGUF, since their layout there is not known "
            f"here; known: {', '.join(FAMILIES)}"
        )
    return found


def _model_config(config: RunConfig) -> Any:
    from transformers import AutoConfig

    m = config.model
    source = model_source(m, cache_root(config.data.cache_dir))
    try:
        found = AutoConfig.from_pretrained(source, revision=m.revision, trust_remote_code=m.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the config of {m.base_model!r}: {first_line(error)}") from error
    return found.get_text_config()


@torch.no_grad()
def _write(path: Path, tensors: Mapping[str, Tensor], family: Family, rank: int, name: str) -> None:
    from gguf import GGUFType, GGUFWriter, Keys

    writer = GGUFWriter(str(path), family.architecture)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, float(rank))
    for tensor, values in tensors.items():
        writer.add_tensor(tensor, values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
