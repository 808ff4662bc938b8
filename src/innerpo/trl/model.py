"""The model argument of a trainer - a name, a model in memory, a model with an adapter - as a base and its policy."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from innerpo.config.model import ModelConfig
from innerpo.data.batching.batch import make_batch
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError, first_line, one_line
from innerpo.files import cache_root
from innerpo.model.adapters import UNSUPPORTED, changes_base, take_off_parts
from innerpo.model.base import Base
from innerpo.model.coverage import excluded_from_all_linear, log_weights_without_adapter
from innerpo.model.dropout import switch_off_dropout
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.model.loading import model_source
from innerpo.model.numerics.fused_lora import fuse_lora
from innerpo.trl.config import InnerPOConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A base model, frozen, and how its policy is made: a new adapter, the adapter it has, or all of its weights."""

    base: Base
    peft_config: Any
    adapted: Any
    trained: tuple[nn.Parameter, ...]

    @property
    def is_full(self) -> bool:
        """Whether the model's own weights are trained."""
        return self.peft_config is None and self.adapted is None

    def attach(self, seed: int) -> Any:
        """Return the policy: the model with its adapter, or the model itself with its weights free to move."""
        if self.peft_config is not None:
            torch.manual_seed(seed)
            try:
                policy: Any = get_peft_model(self.base.model, self.peft_config)
            except ValueError as error:
                take_off_parts(self.base.model)
                raise UserError(f"peft_config does not fit the model: {one_line(error, 300)}") from error
        else:
            policy = self.base.model if self.adapted is None else self.adapted
            for parameter in self.trained:
                parameter.requires_grad_(True)
        switch_off_dropout(policy)
        fuse_lora(policy)
        if not self.is_full:
            log_weights_without_adapter(policy)
        return policy


def load(model: Any, args: InnerPOConfig, quantization_config: Any) -> Any:
    """Return the model in memory, or load it by name as TRL does: in float32 unless the arguments name a type."""
    if not isinstance(model, str | Path):
        if quantization_config is not None:
            raise UserError("quantization_config is for a model given by name; this one is in memory already")
        if args.model_init_kwargs is not None:
            log.warning("model_init_kwargs has no effect: the model is in memory already")
        return model
    options = {"dtype": "float32", "trust_remote_code": args.trust_remote_code} | args.model_options
    if quantization_config is not None:
        options |= {"quantization_config": quantization_config, "device_map": {"": args.device}}
    if isinstance(options["dtype"], str) and options["dtype"] != "auto":
        found = getattr(torch, options["dtype"].removeprefix("torch."), None)
        if found not in (torch.float32, torch.bfloat16, torch.float16):
            raise UserError(f"model_init_kwargs: dtype={options['dtype']!r} is not auto, float32, bfloat16 or float16")
        options["dtype"] = found
    source = model_source(ModelConfig(base_model=str(model)), cache_root(_folder(args.cache_dir)))
    try:
        return AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"cannot load the model {str(model)!r}: {first_line(error)}") from error


def load_tokenizer(processing_class: Any, model: Any, args: InnerPOConfig) -> Any:
    """Return the tokenizer that was given, or the one that belongs to the model."""
    if isinstance(processing_class, PreTrainedTokenizerBase):
        return processing_class
    if processing_class is not None:
        raise UserError(
            f"processing_class must be a tokenizer, got {type(processing_class).__name__}; of a processor take "
            "processor.tokenizer"
        )
    revision = args.model_options.get("revision")
    name = str(getattr(model, "name_or_path", "") or model.config._name_or_path)
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=args.trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"there is no tokenizer in {name!r}; give one as processing_class") from error


def source_of(model: Any, tokenizer: Any, args: InnerPOConfig, ref_model: Any, peft_config: Any) -> Source:
    """Take over the model as base. Raises UserError where it is not its own reference before training."""
    adapted = model if isinstance(model, PeftModel) else None
    if peft_config is not None and adapted is not None:
        raise UserError("the model has an adapter already; leave out peft_config, or model = model.merge_and_unload()")
    for config in [peft_config] if adapted is None else adapted.peft_config.values():
        _check_kind(config)
    bare = model if adapted is None else adapted.get_base_model()
    if getattr(bare, "hf_device_map", None) is None:
        model.to(args.device)
    if ref_model is not None and not isinstance(ref_model, nn.Module):
        raise UserError(f"ref_model must be a model or None, got {type(ref_model).__name__}; leave it out")
    if ref_model is not None and ref_model is not model and not _same_weights(ref_model, bare):
        raise UserError(
            "ref_model has other weights than model; leave it out: the reference is the model before training, in "
            "which directions and drift are measured"
        )
    trained = () if peft_config is not None else tuple(p for p in model.parameters() if p.requires_grad)
    if peft_config is None and not trained:
        raise UserError("no weight of the model is trained (requires_grad); give a peft_config")
    base = Base(bare, tokenizer, name=str(bare.config._name_or_path))
    if getattr(peft_config, "target_modules", None) == "all-linear" and peft_config.exclude_modules is None:
        peft_config = replace(peft_config, exclude_modules=excluded_from_all_linear(bare))
    base.identity += f"/{args.mixed_precision}"  # rounds alike only in the same one
    return Source(base, peft_config, adapted, trained)


@torch.no_grad()
def check_untrained(source: Source, item: PromptItem) -> None:
    """Raise UserError where the adapter that came with the model already changes what the model returns."""
    if source.adapted is None:
        return
    batch = make_batch([item], "concatenated", source.base.pad_id).to(source.base.device)
    source.adapted.eval()
    on = sequence_outputs(source.adapted, batch).logps
    with source.adapted.disable_adapter():
        off = sequence_outputs(source.adapted, batch).logps
    if not torch.allclose(on, off, rtol=1e-5, atol=1e-5):
        raise UserError(
            "the model's adapter is trained already, and the reference would be the model without it; merge it "
            "(model = model.merge_and_unload()) and give a peft_config"
        )


def _check_kind(config: Any) -> None:
    """Refuse adapters that do not only change weights: rows of several responses have no place for more tokens."""
    if config is None:
        return
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning or config.is_adaption_prompt or kind in UNSUPPORTED:
        raise UserError(f"{type(config).__name__} does not only change weights, which is not supported; use LoraConfig")
    if what := changes_base(config):
        raise UserError(
            f"{type(config).__name__} has {what}, which changes the model's own weights; the reference is the model "
            "with the adapter off, which would be another model then"
        )


def _same_weights(reference: Any, model: nn.Module) -> bool:
    """Whether a reference model holds the weights of a model, which may have an adapter."""
    own = {name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items()}
    found = reference.state_dict()
    return all(name in own and torch.equal(own[name].cpu(), found[name].cpu()) for name in found)


def _folder(name: str | None) -> Path | None:
    return None if name is None else Path(name)
