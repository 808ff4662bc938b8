"""A run's folder: checked before anything is computed, created when training starts, resumed from full checkpoints."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerate import PartialState

from innerpo.config.identity import run_id
from innerpo.config.run import RunConfig, to_dict
from innerpo.config.yaml import as_yaml, read_yaml
from innerpo.errors import UserError
from innerpo.files import machine_errors, write_text
from innerpo.training.paths import CHECKPOINTS, CONFIG, METRICS, RECORD


def check_run_dir(config: RunConfig) -> None:
    """Fail early, before anything is loaded, where the run could not land.

    Raises UserError where the folder holds another run, or this one and neither resume nor overwrite is asked for;
    MachineError where it cannot be written.
    """
    folder = config.run_dir
    with machine_errors(folder):
        missing = _missing_folders(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            occupied = any(folder.iterdir())
        finally:
            _remove_empty(missing)
    if occupied:
        _check_same_run(folder, config)


def is_finished(config: RunConfig) -> bool:
    """Whether the run is already there, whole (its record is written last)."""
    return (config.run_dir / RECORD).is_file() and not config.training.overwrite


class OtherInputsError(UserError):
    """What a folder was begun on is not what is at hand."""


@contextmanager
def run_folder(config: RunConfig, inputs: str) -> Iterator[Path | None]:
    """Make the run's folder; yield the checkpoint to resume from, or None to start.

    ``inputs`` identifies data and base model; a checkpoint made on others is refused (UserError).
    Where the body fails before the first checkpoint, a folder that was made here is removed again.
    """
    folder, training = config.run_dir, config.training
    fresh = training.overwrite or not folder.exists()
    missing = _missing_folders(folder)
    process = PartialState()
    if process.is_main_process:
        with machine_errors(folder):
            if training.overwrite:
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
    process.wait_for_everyone()
    if process.is_main_process and not (folder / CONFIG).exists():
        write_text(folder / CONFIG, as_yaml(to_dict(config) | {"run_id": run_id(config), "inputs": inputs}))
    elif process.is_main_process and (found := read_yaml(folder / CONFIG).get("inputs")) != inputs:
        raise OtherInputsError(
            f"{folder} was begun on other data or another base model, or by another number of processes (inputs "
            f"{found}, these are {inputs}); it cannot be resumed: restore them, or start again with training.overwrite"
        )
    try:
        yield last_checkpoint(folder) if training.resume else None
    except BaseException:
        unfinished = last_checkpoint(folder) is None and not (folder / RECORD).is_file()
        if fresh and unfinished and process.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(missing)
        raise


def _missing_folders(folder: Path) -> list[Path]:
    """Return a folder and those above it that do not exist yet, the deepest first."""
    return [p for p in (folder, *folder.parents) if not p.exists()]


def _remove_empty(folders: Sequence[Path]) -> None:
    for path in folders:
        with suppress(OSError):
            path.rmdir()


def _check_same_run(folder: Path, config: RunConfig) -> None:
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} exists and is not a run of innerpo; choose another output_dir")
    if config.training.overwrite:
        return
    if not config.training.resume:
        raise UserError(
            f"{folder} already holds a run; add training.resume to go on with it, or training.overwrite to replace it"
        )
    found = read_yaml(folder / CONFIG).get("run_id")
    if found != run_id(config):
        raise UserError(
            f"{folder} holds a run with another config (id {found}, this one is {run_id(config)}); it cannot be "
            "resumed: use the same options, another output_dir, or training.overwrite"
        )


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run (they appear by rename, so each one is whole)."""
    found = sorted((folder / CHECKPOINTS).glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    return found[-1] if found else None


def cut_metrics(folder: Path, step: int) -> None:
    """Drop the log lines of steps that a resumed run will do again."""
    path = folder / METRICS
    if path.is_file():
        lines = path.read_text().splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_text(path, "".join(line + "\n" for line in kept))
