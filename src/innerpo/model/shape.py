"""A base model's shape without its weights: modules on torch's meta device, from a configuration alone."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from innerpo.config.model import ModelConfig
from innerpo.config.yaml import preset_dir
from innerpo.errors import UserError, first_line
from innerpo.model.base import Base
from innerpo.model.embedded import NAME as EMBEDDED
from innerpo.model.numerics.hardware import choose_attention, choose_dtype
from innerpo.model.stand_in import local_tokenizer

log = logging.getLogger(__name__)

EMBEDDED_SHAPE = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model whose shape the embedded one has."""


@dataclass(eq=False)
class Shape(Base):
    """A base model of which nothing is known but its shape. It can be adapted and traced; it computes no value.

    ``source`` says where the configuration is from. ``tokenizer_note`` says what stands for the tokenizer, empty where
    it is the model's own.
    """

    source: str = ""
    tokenizer_note: str = ""

    def __post_init__(self) -> None:
        """Do what Base does, without the checks that run the model."""
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.use_cache = getattr(self.model.config, "use_cache", None)
        self.model.requires_grad_(False)
        self.model.eval()

    @property
    def n_parameters(self) -> int:
        """Parameters of the model; a matrix that two modules share counts once."""
        return sum(p.numel() for p in self.model.parameters())


def load_shape(config: ModelConfig, cache_dir: Path, device: torch.device) -> Shape:
    """Return the shape of a base model in the data type and with the attention that it would have on a device.

    Nothing is written, and no weights are read. Raises UserError where no configuration of the model can be found.
    """
    model, source = meta_model(config, device)
    tokenizer, note = local_tokenizer(config, cache_dir)
    return Shape(model, tokenizer, config.base_model, "shape", loaded=config, source=source, tokenizer_note=note)


def meta_model(config: ModelConfig, device: torch.device) -> tuple[Any, str]:
    """Return a base model on the meta device, and where its configuration is from."""
    from transformers import AutoModelForCausalLM

    dtype, (found, source) = choose_dtype(config, device), find_config(config)
    attention = choose_attention(config, dtype, device).value
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                found, dtype=dtype, attn_implementation=attention, trust_remote_code=config.trust_remote_code
            )
    except (ValueError, KeyError, ImportError, AttributeError) as error:
        reason = first_line(error)
        raise UserError(f"cannot build the shape of {config.base_model!r} from {source}: {reason}") from error
    return model, source


def find_config(config: ModelConfig) -> tuple[Any, str]:
    """Return a model's transformers configuration and where it is from: a local folder, the presets, or the Hub."""
    from transformers import AutoConfig

    name = EMBEDDED_SHAPE if config.base_model == EMBEDDED else config.base_model
    kept, revision = preset_dir() / "models" / name.replace("/", "--"), config.revision
    if Path(name).is_dir():
        place, source = name, f"{name}/config.json"
    elif (kept / "config.json").is_file():
        place, source, revision = str(kept), f"the configuration of {name} that comes with the presets", None
    else:
        place, source = name, "the Hub (or its cache)"
    try:
        found = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = first_line(error)
        raise UserError(
            f"cannot find the configuration of the base model {config.base_model!r}: {reason} (model.base_model is a "
            f"Hub name, a local folder, or {EMBEDDED!r})"
        ) from error
    return found, source
