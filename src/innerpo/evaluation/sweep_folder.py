"""A folder of runs: which runs lie in it, which of a sweep's failed, and the rows of tables that a sweep names."""

import json
import re
from pathlib import Path
from typing import Any

from innerpo.training.paths import CONFIG, SWEEP, SWEPT


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of the runs in a folder of runs; none for the folder of a run or an adapter itself."""
    own = (CONFIG, "adapter_config.json", "scores.parquet", "scores.jsonl")
    if any((folder / name).is_file() for name in own):
        return []
    return [path for path in sorted(folder.iterdir()) if path.name[0] != "." and (path / CONFIG).is_file()]


def failed_runs(folder: Path) -> list[str]:
    """Return a line for each failed run of a sweep: it is still not there, or scores that were asked for are not."""
    found = []
    for path in sorted((folder / SWEEP / "failed").glob("[!.]*.json")):
        run, failure = folder / run_of(path), _read(path)
        if failure.get("trained", False) or not (run / "run.json").is_file():
            found.append(f"{run} failed: {failure.get('error', f'{path} cannot be read')}")
    return found


def run_of(failure: Path) -> str:
    """Return the name of the run that the file of a failure is about."""
    return re.sub(r"\.[0-9a-f]{8}$", "", failure.stem)


def row_of(run: Path) -> str:
    """Return the row of tables that a sweep names for a run; empty where none did."""
    row = _read(run / SWEPT).get("row", "")
    return row if isinstance(row, str) else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
