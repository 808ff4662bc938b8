"""The file of target-tuned capabilities beside a run's scores: what training on a target itself reaches there."""

import json
from pathlib import Path

from innerpo.errors import UserError

FILE = "capability.json"


def read_capability(folder: Path) -> dict[str, float]:
    """Return the capability of each set of a folder with scores, NaN where it is unknown; empty without the file."""
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        held = json.loads(path.read_text())
        return {name: float("nan") if row["accuracy"] is None else float(row["accuracy"]) for name, row in held.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error!r}; evaluate the run again with eval.capability") from error
