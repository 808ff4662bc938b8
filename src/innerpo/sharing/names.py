"""Names of the files of a repository: those that a push gives, and the list by which the next push knows them."""

import json
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from innerpo.config.combined import FILE as COMBINED
from innerpo.evaluation.facts import FILES as FACTS
from innerpo.sharing.results import RESULTS
from innerpo.training.directions_file import DIRECTIONS
from innerpo.training.paths import CONFIG, METRICS, RECORD

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
RECORDS = (CONFIG, RECORD, METRICS, COMBINED)
TABLES = ("headline.json", "headline.md", "overlap.jsonl")
MODEL = (
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab*", "merges.txt"),
)
"""Files of a whole model as transformers saves them."""
PUSHED = "pushed.json"
"""What a push has uploaded, by name. The next push deletes nothing else."""
_BY = "innerpo"
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".onnx")


def is_model(name: str) -> bool:
    """Whether a file of a repository belongs to a run or a model, by its name."""
    patterns = (*MODEL, *ADAPTER, *RECORDS, *TABLES, DIRECTIONS, *(f"{stem}.*" for stem in FACTS.values()))
    return name.endswith(_WEIGHTS) or any(fnmatch(name, pattern) for pattern in (*patterns, f"{RESULTS}/*"))


def pushed_list(names: Iterable[str]) -> str:
    """Return the text of ``pushed.json``."""
    return json.dumps({"by": _BY, "files": sorted({*names, PUSHED})}, indent=2) + "\n"


def read_pushed(path: Path) -> frozenset[str]:
    """Return the names that a ``pushed.json`` lists; none where it is not that of a push."""
    try:
        held = json.loads(path.read_text())
        return frozenset(map(str, held["files"])) if held["by"] == _BY else frozenset()
    except (ValueError, KeyError, TypeError):
        return frozenset()
