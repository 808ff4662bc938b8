"""What the folders of a study's runs hold beside scores: config, record, log, inspection."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from innerpo.config.run import RunConfig
from innerpo.config.yaml import config_of_folder, read_run_config
from innerpo.errors import UserError
from innerpo.evaluation.study import Study


def run_folder(folder: str | Path) -> Path:
    """Return the folder of the run that scores belong to: of a folder ``eval-<hash>`` that above it."""
    path = Path(folder)
    above = path.resolve().name.startswith("eval-") and not (path / "config.yaml").is_file()
    return path.parent if above else path


def runs_of(study: Study) -> Iterator[dict[str, Any]]:
    """Iterate over the runs of a study, each as a dict of its columns."""
    yield from study.runs.iter_rows(named=True)


def trained_runs(study: Study) -> Iterator[tuple[dict[str, Any], Path]]:
    """Iterate over the runs that were trained, with their folders; scores in ``eval-<hash>`` are those of the run."""
    seen = set()
    for run in runs_of(study):
        folder = run_folder(run["folder"])
        if folder.resolve() not in seen:
            seen.add(folder.resolve())
            yield run, folder


def config_of(folder: str | Path) -> RunConfig:
    """Return the config of a run, or of a peft adapter made elsewhere what can be known of it."""
    path = run_folder(folder)
    try:
        return read_run_config(path) or config_of_folder(path)
    except UserError:  # written by another version: the sources are still read with the defaults
        return RunConfig()


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file; empty where there is none or it is half-written."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a jsonl file, one a line; a line that is half-written is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found
