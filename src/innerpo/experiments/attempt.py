"""An attempt at a run: a folder of its own beneath ``.sweep``, which becomes the run's folder by one rename.

What an earlier attempt left is taken up: training goes on from its checkpoint, scoring from its parts.
"""

import json
import os
import shutil
import socket
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from innerpo.config.identity import scores_id
from innerpo.config.run import RunConfig, to_dict
from innerpo.config.yaml import as_yaml, read_run_config, read_yaml
from innerpo.errors import MachineError, UserError, is_out_of_memory, one_line
from innerpo.evaluation.headline_files import forget_scores
from innerpo.evaluation.sweep_folder import run_of
from innerpo.experiments.layout import attempts, failures
from innerpo.experiments.lease import Lease, LostLeaseError, lease
from innerpo.experiments.plan import PlannedRun
from innerpo.files import machine_errors, write_text
from innerpo.training.paths import CONFIG, RECORD, SWEPT


@dataclass(frozen=True)
class Failure:
    """Why a run failed. ``kind``: user (what was asked for), machine (disk, memory), crash, error (anything else).

    ``trained``: the run was in its place when it failed, so that its scoring did.
    """

    error: str
    kind: str = "error"
    trace: str = ""
    host: str = ""
    at: float = float("nan")
    trained: bool = False


def begin(folder: Path, config: RunConfig, number: int) -> RunConfig:
    """Return the config of an attempt, in the folder of a lease's number, with what is left of earlier ones in it."""
    with machine_errors(attempts(folder)):
        earlier = sorted(attempts(folder).glob("*/"), key=lambda p: int(p.name) if p.name.isdigit() else -1)
        left = [p / config.run_name for p in earlier if (p / config.run_name).is_dir()]
        root = attempts(folder) / str(number)
        root.mkdir(parents=True, exist_ok=True)
        for path in left[:-1]:
            shutil.rmtree(path, ignore_errors=True)
        if left and left[-1] != root / config.run_name:
            left[-1].rename(root / config.run_name)
        run = root / config.run_name
        if run.is_dir() and not (run / CONFIG).is_file():  # killed before it had begun
            shutil.rmtree(run)
        if is_trained(run) and (held := read_run_config(run)) is not None and scores_id(held) != scores_id(config):
            forget_scores(run)  # those of its own sets, which are others now
            _own_config(run, replace(config, output_dir=root))
    return replace(config, output_dir=root, training=replace(config.training, resume=True, overwrite=False))


def publish(planned: PlannedRun, folder: Path, attempt: RunConfig, lease: Lease) -> None:
    """Give a finished attempt its place in the sweep's folder. Raises LostLeaseError where it is no longer ours."""
    run, place = attempt.run_dir, folder / planned.name
    lease.check()
    with machine_errors(run):
        for left in run.rglob(".*"):  # of a kill in the midst of a write
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    _own_config(run, planned.config)
    mark(run, planned, lease.spent)
    lease.check()
    if is_trained(place):  # by another machine, whose folder showed up late on this one
        discard(folder, planned.name)
        raise LostLeaseError(f"{place} was finished by another process; what this one did is dropped")
    with machine_errors(place):
        os.rename(run, place)  # noqa: PTH104 (fails where there is a run already, as it should)
        _sync(folder)


def mark(run: Path, planned: PlannedRun, seconds: float | None = None) -> None:
    """Write what a sweep says of a run into its folder: its row in tables and the seconds that it took."""
    held = swept(run)
    known = held | {"row": planned.row} | ({} if seconds is None else {"seconds": seconds, "finished": time.time()})
    if known != held:
        write_text(run / SWEPT, json.dumps(known, indent=2) + "\n")


def swept(run: Path) -> dict[str, object]:
    """Return what a sweep says of a run in its folder; empty where it says nothing."""
    try:
        found = json.loads((run / SWEPT).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def discard(folder: Path, name: str, trained: bool = True) -> None:
    """Remove what is left of all attempts at a run, trained ones only where ``trained`` says so."""
    for left in attempts(folder).glob("*/"):
        if trained or not is_trained(left / name):
            shutil.rmtree(left / name, ignore_errors=True)


def record_failure(folder: Path, planned: PlannedRun, error: BaseException | str) -> Failure:
    """Keep why a run failed; return it."""
    if isinstance(error, str):
        kind, trace, text = "crash", "", " ".join(error.split())
    else:
        kind = "machine" if isinstance(error, MachineError) or is_out_of_memory(error) else "error"
        kind = "user" if isinstance(error, UserError) and kind == "error" else kind
        text = f"{type(error).__name__}: {one_line(error)}" if kind == "error" else one_line(error)
        trace = "" if kind == "user" else "".join(traceback.format_exception(error))
    failure = Failure(text[:1000], kind, trace, socket.gethostname(), time.time(), is_trained(folder / planned.name))
    write_text(_failure_path(folder, planned), json.dumps(asdict(failure), indent=2) + "\n")
    return failure


def failure_of(folder: Path, planned: PlannedRun) -> Failure | None:
    """Return why a run failed at what is asked of it now; None where it did not."""
    path = _failure_path(folder, planned)
    try:
        return Failure(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        return Failure(f"{path} cannot be read: {error}")


def forget_failure(folder: Path, planned: PlannedRun) -> None:
    """Let a failed run be tried again: from its checkpoint where the machine failed, else from the start.

    What is trained is kept. A run that another process tries again at this moment is left alone.
    """
    if failure_of(folder, planned) is None:
        return
    with lease(folder, planned.name) as held:
        failure = failure_of(folder, planned)
        if held is None or failure is None:
            return
        if failure.kind not in ("machine", "crash"):
            discard(folder, planned.name, trained=False)
            if not any((left / planned.name).is_dir() for left in attempts(folder).glob("*/")):
                held.remove()  # with it the time of what is gone
        drop_failure(folder, planned)


def drop_failure(folder: Path, planned: PlannedRun) -> None:
    """Remove the record of a failure: the run has been done since."""
    _failure_path(folder, planned).unlink(missing_ok=True)


def drop_unasked_failures(folder: Path, runs: Iterable[PlannedRun]) -> None:
    """Remove what runs failed at when more or other things were asked of them: an option was mended, say."""
    paths = {_failure_path(folder, planned) for planned in runs}
    names = {run_of(path) for path in paths}
    for path in failures(folder).glob("[!.]*.json"):
        if path not in paths and run_of(path) in names:
            path.unlink(missing_ok=True)


def _failure_path(folder: Path, planned: PlannedRun) -> Path:
    return failures(folder) / f"{planned.name}.{planned.request}.json"


def _own_config(run: Path, config: RunConfig) -> None:
    """Let the run's config.yaml name the place that it will have, as if it had been made there."""
    held = read_yaml(run / CONFIG)
    identity = {key: held[key] for key in ("run_id", "inputs") if key in held}
    write_text(run / CONFIG, as_yaml(to_dict(config) | identity))


def is_trained(run: Path) -> bool:
    """Whether a folder holds a whole run: its record is written last."""
    return (run / RECORD).is_file()


def _sync(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
