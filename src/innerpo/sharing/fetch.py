"""A run by name: its folder here, or a repository of the Hub, downloaded into the Hub's own cache."""

import logging
import re
from pathlib import Path

from innerpo.errors import UserError
from innerpo.files import existing_folder
from innerpo.sharing.push import hub_errors

log = logging.getLogger(__name__)

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = (
    "*.json",
    "*.jsonl",
    "*.safetensors",
    "*.yaml",
    "*.md",
    "*.parquet",
    "*.jinja",
    "tokenizer*",
    "vocab*",
    "*.txt",
)


def folder_of(run: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a run: itself, or the snapshot of a repository ``owner/name`` on the Hub.

    A folder of that name comes first. Raises UserError where there is neither.
    """
    if Path(run).is_dir():
        return Path(run)
    name = str(run)
    if isinstance(run, Path) or not _HUB_NAME.fullmatch(name) or name.startswith((".", "~")):
        return existing_folder(run)
    from huggingface_hub import snapshot_download

    with hub_errors(f"there is no folder {name}, and no repository of that name could be read on the Hub"):
        found = Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
    if not any(found.glob("*.safetensors")):
        raise UserError(f"the repository {name} holds no adapter and no model")
    log.info(f"{name} from the Hub: {found.name}")
    return found
