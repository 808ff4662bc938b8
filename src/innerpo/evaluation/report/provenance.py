"""What a reader needs to trust or repeat the page: versions, hashes, configs, commands."""

import platform
from importlib import metadata
from typing import Any

from innerpo.evaluation.report.folders import read_json, run_folder, runs_of
from innerpo.evaluation.report.records import RunRecord
from innerpo.evaluation.study import Study
from innerpo.training.paths import CONFIG, RECORD

FACTS = {
    "run_id": "run id",
    "base_model": "base model",
    "base_fingerprint": "fingerprint of the base's weights",
    "dataset": "trained on",
    "n_pairs": "training pairs",
    "data_hash": "hash of the training tokens",
    "layout": "layout of rows",
    "layers": "layers read",
    "steps": "steps",
    "seconds": "seconds",
}
"""Key of run.json -> what it is."""


def run_records(study: Study) -> tuple[RunRecord, ...]:
    """Return the record of every run: run.json in words, config.yaml as text."""
    return tuple(_record(run) for run in runs_of(study))


def page_versions() -> tuple[tuple[str, str], ...]:
    """Return the versions of what computed the page."""
    names = ("innerpo", "polars", "numpy", "scipy", "altair", "vl-convert-python", "jinja2")
    return (*((name, _version(name)) for name in names), ("python", platform.python_version()))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a checkout that was not installed
        return "unknown"


def _record(run: dict[str, Any]) -> RunRecord:
    folder = run_folder(run["folder"])
    record = read_json(folder / RECORD)
    facts = [(words, _plain(record[key])) for key, words in FACTS.items() if record.get(key) not in (None, "", [])]
    versions = record.get("versions")
    if isinstance(versions, dict):
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    if not record:
        facts.append(
            ("record", f"{folder} holds no {RECORD}: the adapter was made elsewhere, or training has not ended")
        )
    try:
        config = (folder / CONFIG).read_text(encoding="utf-8")
    except OSError:
        config = ""
    method = str(record.get("method", "")) if config else ""
    return RunRecord(run["run"], str(folder), run["folder"], method, tuple((a, b) for a, b in facts), config)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
