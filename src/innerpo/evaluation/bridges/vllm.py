"""Whether vLLM takes a saved adapter: its rules, applied to the files, so that no GPU is needed to know.

The rules are those of vLLM's ``lora/peft_helper.py`` (what a config may hold), ``config/lora.py`` (ranks) and
``lora/lora_model.py``, ``lora/utils.py`` (names of tensors), read in its repository; vLLM itself was not run. It drops
config fields that it does not know. Such a field is named here where the adapter would be loaded and be another.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from innerpo.config.yaml import read_yaml
from innerpo.errors import UserError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for max_lora_rank; its default is 16."""

TENSOR = re.compile(r"(?:.+\.)?(?P<module>\w+)\.(?:lora_[AB]\.weight|lora_embedding_[AB])")

IGNORED = ("rank_pattern", "alpha_pattern", "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora")
"""Fields of peft that vLLM does not read, though the adapter depends on them."""


@dataclass(frozen=True)
class VllmCheck:
    """What vLLM would refuse or load wrongly (``problems``, none: it takes the adapter), and how to load it.

    ``modules`` are the names of the adapted layers, which must be linear layers or embeddings of vLLM's model too.
    """

    folder: Path
    base_model: str
    rank: int
    max_lora_rank: int
    modules: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def model_args(self) -> str:
        """Arguments of lm-evaluation-harness's vLLM backend."""
        return f"pretrained={self.base_model},lora_local_path={self.folder},max_lora_rank={self.max_lora_rank}"


def check_vllm(folder: Path) -> VllmCheck:
    """Apply vLLM's rules to the adapter in a folder. Raises UserError where there is none, or it cannot be read."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UserError(
            f"{folder} holds no adapter_config.json: it is no adapter; a fully fine-tuned model is served as a model"
        )
    config = read_yaml(path)  # JSON is YAML
    names = _tensors(folder)
    rank = int(config.get("r") or 0)
    fitting = next((known for known in RANKS if known >= rank), RANKS[-1])
    unknown = [name for name in names if not TENSOR.fullmatch(name)]
    problems = _problems(config, rank)
    if unknown:
        problems.append(f"{len(unknown)} tensors are of a kind that vLLM does not know, the first {unknown[0]}")
    return VllmCheck(
        folder=folder,
        base_model=str(config.get("base_model_name_or_path")),
        rank=rank,
        max_lora_rank=fitting,
        modules=tuple(sorted({found["module"] for name in names if (found := TENSOR.fullmatch(name))})),
        problems=tuple(problems),
    )


def _problems(config: dict[str, Any], rank: int) -> list[str]:
    found = []
    if (kind := config.get("peft_type")) != "LORA":
        found.append(f"it is of peft's kind {kind}; vLLM loads LoRA only")
    elif rank < 1:
        found.append(f"its rank is {rank}; vLLM wants 1 or more")
    if rank > RANKS[-1]:
        found.append(f"its rank {rank} is above {RANKS[-1]}, the largest max_lora_rank")
    if config.get("modules_to_save"):
        found.append(f"modules_to_save is {config['modules_to_save']}; vLLM loads no trained copies of modules")
    if config.get("use_dora"):
        found.append("it is a DoRA adapter (use_dora), which vLLM does not load")
    if (bias := config.get("bias") or "none") != "none":
        found.append(f"it trains biases (bias={bias}), which vLLM does not load")
    if config.get("trainable_token_indices"):
        found.append("it trains single tokens (trainable_token_indices), which only newer versions of vLLM load")
    found += [f"vLLM does not read {name}, and would load another adapter" for name in IGNORED if config.get(name)]
    return found


def _tensors(folder: Path) -> list[str]:
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise UserError(f"{folder} holds no adapter_model.safetensors; save the adapter with peft")
    try:
        with safe_open(path, framework="np") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
