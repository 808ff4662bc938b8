"""Base models for the benchmarks, loaded as this project loads any: by name, by folder, or random of a known shape."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.options import Options
from innerpo.config.model import ModelConfig
from innerpo.files import cache_root, staged_directory
from innerpo.model.base import Base
from innerpo.model.embedded import embedded_model_folder
from innerpo.model.loading import load_base

SHAPES: dict[str, dict[str, Any]] = {
    "llama-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "llama-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}
"""The shapes of Llama 3.2 1B and Llama 3.1 8B."""


def model_config(options: Options) -> ModelConfig:
    """Return the base model and the adapter that all systems train: rank 16, alpha 32, every linear layer."""
    name = options.model
    if name in SHAPES:
        cache = cache_root(options.cache_dir)
        name = str(random_model(cache / "models" / f"{name}-random", SHAPES[name], embedded_model_folder(cache)))
    return ModelConfig(
        base_model=name,
        dtype=options.dtype,
        attention=options.attention,
        lora_r=16,
        lora_alpha=32.0,
        lora_dropout=0.0,
        threads=options.threads,
    )


def load_model(options: Options, config: ModelConfig | None = None) -> Base:
    """Load the base model through the function that a run uses, for every system."""
    return load_base(config or model_config(options), cache_root(options.cache_dir))


def random_model(folder: Path, shape: dict[str, Any], tokenizer: Path) -> Path:
    """Write a Llama of a shape with seeded random weights (bfloat16) and another model's tokenizer; once."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if (folder / "config.json").is_file():
        return folder
    words = AutoTokenizer.from_pretrained(tokenizer)
    special = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = LlamaForCausalLM(LlamaConfig(**shape, **special, max_position_embeddings=8192))
    finally:
        torch.set_default_dtype(before)
    with staged_directory(folder) as staging:
        model.save_pretrained(staging)
        words.save_pretrained(staging)
    return folder
