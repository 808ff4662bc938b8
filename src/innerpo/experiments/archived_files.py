"""What an archive keeps of a run, and what it leaves out: weights, and the names of places on a machine."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from innerpo.config.run import RunConfig, to_dict
from innerpo.config.yaml import as_yaml, read_run_config, read_yaml
from innerpo.errors import UserError
from innerpo.evaluation.capability_file import FILE as CAPABILITY
from innerpo.evaluation.headline_files import FACTS, OVERLAP, overlap_numbers
from innerpo.files import write_atomically, write_text
from innerpo.training.paths import CONFIG, METRICS, RECORD, SWEPT

KEPT = (RECORD, SWEPT, METRICS, *FACTS, OVERLAP, "inspect.json", "headline.json")
"""Files of a run, and of the folders of other scores beneath it, that are archived, of overlap.jsonl the numbers; the
last one written says that the scores are whole."""

PLACES = ("genies_dir", "ethics_dir", "cache_dir")
"""Fields of ``data`` that name places on a machine and change nothing: left out of an archived config."""


def copy_files(run: Path, place: Path) -> None:
    """Copy what is kept of a run, and of its other scores, to a folder. Raises UserError for what is no run."""
    config = read_run_config(run)
    if config is None:
        raise UserError(f"{run} is no run: it has no {CONFIG}")
    for source in (run, *sorted(run.glob("eval-*"))):
        target = place if source == run else place / source.name
        target.mkdir(exist_ok=True)
        if (source / CAPABILITY).is_file():
            write_text(target / CAPABILITY, _capabilities(source / CAPABILITY))
        for name in KEPT:
            if name == OVERLAP and (source / name).is_file():
                write_text(target / name, overlap_numbers((source / name).read_text()))
            elif (source / name).is_file():
                write_atomically(target / name, partial(shutil.copyfile, source / name))
            elif name in FACTS:  # in another format now
                (target / name).unlink(missing_ok=True)
    write_text(place / CONFIG, as_yaml(_without_places(config) | _identity(run)))


def same_training(run: Path, place: Path) -> bool:
    """Whether two folders hold one training, by their records: time and last loss tell repetitions apart."""
    try:
        return (run / RECORD).read_bytes() == (place / RECORD).read_bytes()
    except OSError:
        return False


def _without_places(config: RunConfig) -> dict[str, Any]:
    usual = RunConfig()
    data = replace(config.data, **{name: getattr(usual.data, name) for name in PLACES})
    return to_dict(replace(config, data=data, output_dir=usual.output_dir))


def _identity(run: Path) -> dict[str, Any]:
    values = read_yaml(run / CONFIG)
    return {key: values[key] for key in ("run_id", "inputs") if key in values}


def _capabilities(path: Path) -> str:
    """The file without the folders of the runs that measured them, and the errors of those that failed."""
    try:
        found = json.loads(path.read_text())
        kept = {name: {k: v for k, v in row.items() if k not in ("run", "note")} for name, row in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error!r}") from error
    return json.dumps(kept, indent=2) + "\n"
