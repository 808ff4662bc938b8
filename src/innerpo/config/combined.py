"""What a folder with a combined adapter says of itself (combined.json): sources, weights, base and training set."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from innerpo.errors import UserError

FILE = "combined.json"


@dataclass(frozen=True)
class Source:
    """An adapter that is part of a sum: its folder, a hash of its files, its weight, its row in tables, its seed."""

    folder: str
    hash: str
    weight: float
    label: str
    seed: int | None = None


@dataclass(frozen=True)
class Combined:
    """The record of a combined adapter.

    ``label`` is its row in tables. ``seed`` is the training seed that all sources share, None where they differ.
    ``lines`` is the factor on the first block's update, ``rank`` and ``energy`` the truncation asked for;
    ``energy_kept`` is the share of the sum's energy that is left. ``data`` is that section of the first source's
    config, empty where the sources' training sets differ or are not known; ``model`` that of the first source which has
    a config, or of one whose base was in 4 bits.
    """

    label: str
    sources: tuple[Source, ...]
    seed: int | None = None
    lines: float = 1.0
    rank: int = 0
    energy: float = 1.0
    energy_kept: float = 1.0
    base_model: str = ""
    base_fingerprint: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(asdict(self), indent=2, default=str) + "\n"


def read_combined(folder: Path) -> Combined | None:
    """Return the record of a combined adapter; None for a folder that is none."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        held = json.loads(path.read_text())
        return Combined(**held | {"sources": tuple(Source(**source) for source in held["sources"])})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no record of a combined adapter: {error}") from error
