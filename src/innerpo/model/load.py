"""Load the base model and its tokenizer, put an adapter on it, and say what was chosen."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from innerpo.config import ModelConfig
from innerpo.console import say
from innerpo.errors import UserError
from innerpo.files import write_text
from innerpo.model.embedded import NAME as EMBEDDED
from innerpo.model.embedded import embedded_model_folder
from innerpo.model.hardware import choose_attention, choose_dtype, limit_threads


@dataclass(frozen=True)
class LoadedModel:
    """A base model without adapter, ready for either training or scoring.

    ``identity`` names the weights' content; it is part of the key of everything cached.
    """

    model: Any
    tokenizer: Any
    name: str
    identity: str

    @property
    def pad_id(self) -> int:
        """Token that fills rows; never attended to and never scored."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)


def device() -> torch.device:
    """Return the device that transformers' Trainer will use in this process."""
    from accelerate import PartialState

    found: torch.device = PartialState().device
    return found


def model_source(config: ModelConfig, cache_dir: Path) -> str:
    """Return what transformers loads the base model from: a Hub name or a folder."""
    return str(embedded_model_folder(cache_dir)) if config.base_model == EMBEDDED else config.base_model


def load_base(config: ModelConfig, cache_dir: Path) -> LoadedModel:
    """Load base model and tokenizer. A name that leads nowhere is one clear UserError."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar over tensors already on disk; downloads keep theirs
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
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot load the base model {config.base_model!r}: {reason} (a Hub name, a local folder with "
            f"config.json and safetensors, or {EMBEDDED!r} would do)"
        ) from error
    switch_off_dropout(model)
    if not config.load_in_4bit:
        model.to(device())
    model.requires_grad_(False)
    say(
        f"model: {config.base_model}, {sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters, "
        f"{str(dtype).removeprefix('torch.')}{', 4 bit' if config.load_in_4bit else ''}, "
        f"{model.config._attn_implementation} attention ({attention.reason}), on {device()}, "
        f"{threads.value} CPU threads ({threads.reason})"
    )
    identity = f"{weights_identity(model, source, cache_dir)}/{dtype}/4bit={config.load_in_4bit}"
    return LoadedModel(model.eval(), tokenizer, config.base_model, identity)


def switch_off_dropout(model: nn.Module) -> None:
    """Set every dropout to 0: a policy compared with its reference must not be noisy (as TRL does by default)."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def _four_bit(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available():
        raise UserError("model.load_in_4bit needs a CUDA device; here there is none")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
    )


def add_adapter(base: LoadedModel, config: ModelConfig, seed: int) -> nn.Module:
    """Return the policy: the base with a fresh seeded LoRA adapter, or all weights trainable where lora_r is 0."""
    from peft import LoraConfig, get_peft_model

    from innerpo.model.adapted import sum_at_once

    if config.lora_r == 0:
        base.model.requires_grad_(True)
        full: nn.Module = base.model
        return full
    names = config.target_modules
    target: str | list[str] = names if names == "all-linear" else [n.strip() for n in names.split(",")]
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=target,
        task_type="CAUSAL_LM",
    )
    try:
        policy: nn.Module = get_peft_model(base.model, lora)
    except ValueError as error:
        linear = sorted({n.split(".")[-1] for n, m in base.model.named_modules() if isinstance(m, nn.Linear)})
        raise UserError(
            f"model.target_modules={names!r} fits no module of {base.name!r}; it has {', '.join(linear)}"
        ) from error
    sum_at_once(policy)
    return policy


@contextmanager
def reference_mode(model: Any) -> Iterator[None]:
    """The reference: the same weights with the adapter off, no gradient, no dropout."""
    adapter_off = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), adapter_off:
            yield
    finally:
        model.train(was_training)


def weights_identity(model: Any, source: str, cache_dir: Path) -> str:
    """Return a name of the weights' content: the Hub commit, or a hash of a local folder's weight files."""
    folder = Path(source)
    if not folder.is_dir():
        commit = getattr(model.config, "_commit_hash", None)
        if commit:
            return f"{source}@{commit}"
        raise UserError(f"cannot tell which version of {source!r} was loaded; give a local folder or a revision")
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json"))
    return hashlib.sha256("".join(_file_hash(p, cache_dir) for p in files).encode()).hexdigest()[:32]


def _file_hash(path: Path, cache_dir: Path) -> str:
    """SHA-256 of a file, remembered by (path, size, time of change), since weights are many gigabytes."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:32]
    memo = cache_dir / "hashes" / f"{key}.json"
    if memo.is_file():
        try:
            return str(json.loads(memo.read_text())["sha256"])
        except (ValueError, KeyError):
            memo.unlink(missing_ok=True)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.st_size > 1_000_000:
        write_text(memo, json.dumps({"sha256": digest, "path": str(path)}))
    return digest
