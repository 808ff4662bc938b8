"""Where a sweep keeps what: finished runs lie in its folder, all else in the hidden folder ``.sweep`` beneath it."""

from pathlib import Path

from innerpo.training.paths import SWEEP


def plans(folder: Path) -> Path:
    """Plans (JSON), so that any process can take part that knows the folder and a plan's id."""
    return folder / SWEEP / "plans"


def leases(folder: Path) -> Path:
    """Locks, and who works on which run."""
    return folder / SWEEP / "leases"


def attempts(folder: Path) -> Path:
    """Unfinished runs, each at ``<number of its lease>/<name>``."""
    return folder / SWEEP / "attempts"


def failures(folder: Path) -> Path:
    """Why runs failed, ``<name>.<hash of what was asked for>.json``."""
    return folder / SWEEP / "failed"


def logs(folder: Path) -> Path:
    """What worker processes logged."""
    return folder / SWEEP / "logs"
