"""A loaded base model that many runs share, with an in-memory cache of its reference outputs."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from innerpo.config.data import DataConfig
from innerpo.config.model import ModelConfig
from innerpo.data.tokens import PairTokenizer
from innerpo.model.cache import TensorMemory
from innerpo.model.dropout import switch_off_dropout
from innerpo.model.forward.blocks import decoder_blocks
from innerpo.model.identity import hash_of_weights


@dataclass(eq=False)
class Base:
    """A base model without adapter, frozen, with its tokenizer.

    ``Base(model, tokenizer)`` takes over a model in memory: it is put into evaluation mode, its parameters are frozen
    and its dropout is switched off. ``loading.load_base`` makes one from a name or a folder. ``model`` is a causal
    language model of transformers, ``tokenizer`` its tokenizer. ``name`` is recorded in the config of runs.

    ``identity`` names the weights' content; it is part of the key of everything that is cached. Empty: a hash of the
    weights, computed when it is first needed.
    ``memory`` keeps reference outputs in memory, up to its limit in bytes, so that a second run reads no file;
    ``encodings`` keeps the token ids of texts. ``loaded`` is the config that the model was loaded with; of a model in
    memory, its name and data type.
    """

    model: Any
    tokenizer: Any
    name: str = ""
    identity: str = ""
    memory: TensorMemory = field(default_factory=TensorMemory, repr=False)
    encodings: dict[str, list[int]] = field(default_factory=dict, repr=False)
    loaded: ModelConfig | None = None

    def __post_init__(self) -> None:
        self.name = self.name or str(getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__)
        switch_off_dropout(self.model)
        self.use_cache = getattr(self.model.config, "use_cache", None)  # transformers' Trainer sets it to False
        self.model.requires_grad_(False)
        self.model.eval()
        self.identity = self.identity or hash_of_weights(self.model)
        named = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
        dtype: Any = named.get(self.model.dtype, "auto")
        self.loaded = self.loaded or ModelConfig(base_model=self.name, dtype=dtype)

    def pair_tokenizer(self, data: DataConfig) -> PairTokenizer:
        """Return a tokenizer of pairs with the limits of a config; all of this base share what they tokenised."""
        return PairTokenizer(self.tokenizer, data.max_prompt_tokens, data.max_response_tokens, self.encodings)

    @property
    def pad_id(self) -> int:
        """Token that fills rows; never attended to and never scored."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def n_blocks(self) -> int:
        """Number of decoder blocks."""
        return len(decoder_blocks(self.model))


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
