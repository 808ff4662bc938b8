"""Export: a run's directions as a steering vector that other programs read."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from innerpo.config.run import RunConfig
from innerpo.errors import UserError, first_line
from innerpo.files import cache_root, write_atomically
from innerpo.methods.steering import steering_vector
from innerpo.model.loading import model_source
from innerpo.model.steering import SteeringVector
from innerpo.training.directions_file import DIRECTIONS, load_directions

log = logging.getLogger(__name__)

ARCHITECTURE = "controlvector"


def export_run(folder: Path, config: RunConfig, format: str, out: Path | None = None) -> Path:
    """Write the steering vector of a run as ``safetensors`` or ``gguf``; return where."""
    found = load_directions(folder)
    if found is None:
        raise UserError(f"{folder} has no {DIRECTIONS}: its method read no states, so it has no direction")
    vector = steering_vector(found)
    path = out or folder / f"steering.{format}"
    FORMATS[format](path, vector, _model_type(config))
    blocks = ", ".join(map(str, vector.blocks))
    log.info(f"steering vector of blocks {blocks}; a coefficient of 1 is one standard deviation of the pairs in each")
    return path


def write_safetensors(path: Path, vector: SteeringVector, model_type: str) -> None:
    """Write ``direction.N`` for every block N (counted from 0), float32."""
    tensors = {f"direction.{b}": v.contiguous() for b, v in zip(vector.blocks, vector.vectors, strict=True)}
    header = {"model_hint": model_type, "blocks": json.dumps(vector.blocks)}
    write_atomically(path, lambda p: save_file(tensors, p, header))


def write_gguf(path: Path, vector: SteeringVector, model_type: str) -> None:
    """Write the control-vector form of llama.cpp and repeng: ``direction.N`` is added to the output of block N.

    Raises UserError for block 0, which llama.cpp cannot steer (its reader refuses N = 0).
    """
    from gguf import GGUFWriter

    if 0 in vector.blocks:
        raise UserError("GGUF control vectors begin at block 1, this run reads block 0; export it as safetensors")

    def write(temporary: Path) -> None:
        writer = GGUFWriter(str(temporary), ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vector.blocks))
        for block, direction in zip(vector.blocks, vector.vectors.numpy(), strict=True):
            writer.add_tensor(f"direction.{block}", direction)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write_atomically(path, write)


FORMATS: dict[str, Callable[[Path, SteeringVector, str], None]] = {
    "safetensors": write_safetensors,
    "gguf": write_gguf,
}


def _model_type(config: RunConfig) -> str:
    """The family of the base model (``llama``), as its config names it: a hint for the program that reads the file."""
    from transformers import AutoConfig

    m = config.model
    source = model_source(m, cache_root(config.data.cache_dir))
    try:
        found = AutoConfig.from_pretrained(source, revision=m.revision, trust_remote_code=m.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the config of {m.base_model!r}: {first_line(error)}") from error
    return str(found.get_text_config().model_type)
