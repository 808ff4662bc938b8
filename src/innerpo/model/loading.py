"""Load a base model and its tokenizer by name or from a folder, and log the choices made."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from innerpo.config.model import ModelConfig
from innerpo.errors import UserError, first_line
from innerpo.model.base import Base
from innerpo.model.embedded import NAME as EMBEDDED
from innerpo.model.embedded import embedded_model_folder
from innerpo.model.identity import hash_of_source
from innerpo.model.numerics.hardware import choose_attention, choose_dtype, limit_threads

log = logging.getLogger(__name__)


def device() -> torch.device:
    """Return the device that transformers' Trainer will use in this process."""
    from accelerate import PartialState

    found: torch.device = PartialState().device
    return found


LOADED = ("base_model", "revision", "dtype", "attention", "threads", "load_in_4bit", "trust_remote_code")
"""Fields of ModelConfig that loading uses up: a run on a loaded base has the base's values."""


def as_loaded(config: ModelConfig, base: Base) -> ModelConfig:
    """Return the config of a run on a loaded base: the fields that loading used are those of the base.

    Raises UserError where the config asks for another value of one (another name of the model but excepted).
    """
    assert base.loaded is not None
    default, changes = ModelConfig(), dict[str, Any]()
    actual = {"dtype": str(base.model.dtype).removeprefix("torch.")}
    for name in LOADED[1:]:
        wanted, has = getattr(config, name), getattr(base.loaded, name)
        if wanted == actual.get(name, has):  # "auto" may have chosen just that
            continue
        if wanted not in (has, getattr(default, name)):
            raise UserError(f"model.{name}={wanted!r}, but the base model {base.name!r} is loaded with {has!r}")
        changes[name] = has
    return replace(config, base_model=base.name, **changes)


def check_precision(config: ModelConfig, base: Base) -> None:
    """Raise UserError where full fine-tuning would train half-precision weights that nobody chose."""
    if config.lora_r == 0 and config.dtype == "auto" and base.model.dtype != torch.float32:
        raise UserError(
            f"full fine-tuning (model.lora_r=0) trains float32 weights, but {base.name!r} is loaded in "
            f"{str(base.model.dtype).removeprefix('torch.')}; load it with model.dtype=float32, or name its type there"
        )


def model_source(config: ModelConfig, cache_dir: Path) -> str:
    """Return what transformers loads the base model from: a Hub name or a folder."""
    return str(embedded_model_folder(cache_dir)) if config.base_model == EMBEDDED else config.base_model


def load_tokenizer(config: ModelConfig, cache_dir: Path) -> Any:
    """Load the base model's tokenizer alone. Raises UserError if it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            model_source(config, cache_dir), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = first_line(error)
        raise UserError(f"cannot load the tokenizer of the base model {config.base_model!r}: {reason}") from error


def load_base(config: ModelConfig, cache_dir: Path) -> Base:
    """Load base model and tokenizer by ``config.base_model``. Raises UserError if they cannot be loaded."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # loading from disk needs no progress bar; downloads keep theirs
    dtype, threads = choose_dtype(config, device()), limit_threads(config.threads)
    attention = choose_attention(config, dtype, device())
    source = model_source(config, cache_dir)
    common = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    placement = {"device_map": {"": device()}} if config.load_in_4bit else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        model = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation=attention.value,
            quantization_config=_four_bit(dtype) if config.load_in_4bit else None,
            **common,
            **placement,
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = first_line(error)
        raise UserError(
            f"cannot load the base model {config.base_model!r}: {reason} (model.base_model is a Hub "
            f"name, a local folder with config.json and safetensors, or {EMBEDDED!r})"
        ) from error
    if not config.load_in_4bit:
        model.to(device())
    log.info(
        f"model: {config.base_model}, {sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters, "
        f"{str(dtype).removeprefix('torch.')}{', 4 bit' if config.load_in_4bit else ''}, "
        f"{model.config._attn_implementation} attention ({attention.reason}), on {device()}, "
        f"{threads.value} CPU threads ({threads.reason})"
    )
    identity = f"{hash_of_source(model, source, cache_dir)}/{dtype}/4bit={config.load_in_4bit}"
    return Base(model, tokenizer, config.base_model, identity, loaded=config)


def _four_bit(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available():
        raise UserError("model.load_in_4bit needs a CUDA device, and this machine has none")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
    )
