"""Which folders beneath a root are runs, and which files a page may read: never anything outside the root."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from innerpo.training.paths import CHECKPOINTS, CONFIG, METRICS, RECORD, STATE, SWEEP

MARKS = frozenset({CONFIG, RECORD, METRICS, STATE})
"""A folder with one of these files is that of a run."""
DEPTH = 6
"""Folders further beneath the root are not looked into."""
EVAL = "eval-"
"""Beginning of the name of a folder, beneath a run's, with scores of other sets."""


class OutsideError(Exception):
    """A path that leads out of the root, or to what is no run."""


def run_paths(root: Path) -> list[str]:
    """Return the paths of all runs, relative to the root, sorted; the root itself is "". Links are not followed."""
    return sorted(_walk(root, "", DEPTH))


def run_folder(root: Path, path: str) -> Path:
    """Return the folder of a run by its path relative to the root. Raises OutsideError where that is none.

    The parts of a path are names: no ``..``, no empty part, no backslash, no drive, no hidden folder but that of a
    sweep. A link is followed only where it ends beneath the root.
    """
    if path:
        parts = path.split("/")
        if any(not part or _is_hidden(part) or any(c in "\\\0:" for c in part) for part in parts):
            raise OutsideError(path)
    folder = _beneath(root, root / path)
    if not any(_is_file(folder / name) for name in MARKS):
        raise OutsideError(path)
    return folder


def open_beneath(root: Path, path: Path) -> int:
    """Open a regular file for reading; return its descriptor. Raises OSError, or OutsideError for what a link leads to.

    Pipes and devices are refused: reading them could wait for ever.
    """
    descriptor = os.open(_beneath(root, path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OutsideError(str(path))
    return descriptor


def evaluations(folder: Path) -> list[str]:
    """Return the names of the folders beneath a run's that hold scores of other sets."""
    return sorted(e.name for e in _entries(folder) if e.name.startswith(EVAL) and e.is_dir(follow_symlinks=False))


def _beneath(root: Path, path: Path) -> Path:
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that no file can have
        raise OutsideError(str(path)) from error
    if not resolved.is_relative_to(root.resolve()):
        raise OutsideError(str(path))
    return resolved


def _is_hidden(name: str) -> bool:
    """A sweep's hidden folder is looked into: it holds the runs that are in work."""
    return name.startswith(".") and name != SWEEP


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _walk(folder: Path, path: str, depth: int) -> Iterator[str]:
    entries = _entries(folder)
    if any(entry.name in MARKS and entry.is_file(follow_symlinks=False) for entry in entries):
        yield path
    for entry in entries:
        name, is_folder = entry.name, entry.is_dir(follow_symlinks=False)
        if (
            is_folder
            and depth
            and not name.startswith(EVAL)
            and not _is_hidden(name)
            and name != CHECKPOINTS
            and "\\" not in name
        ):
            yield from _walk(folder / name, f"{path}/{name}" if path else name, depth - 1)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder; none where it has vanished or may not be read."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []
