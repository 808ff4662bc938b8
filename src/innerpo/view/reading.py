"""Files that others are writing: each is read again only when it changed, and what is wrong with it is kept as text."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from innerpo.view.folders import OutsideError, open_beneath

T = TypeVar("T")

LIMIT = 16 * 2**20
"""Largest file in bytes that is read whole."""


@dataclass(frozen=True)
class Found(Generic[T]):
    """The content of a file. ``value`` is None where it cannot be read; ``problem`` says why, else ""."""

    value: T | None = None
    problem: str = ""
    changed: float = float("nan")
    """Seconds since 1970; NaN where there is no file."""

    @property
    def exists(self) -> bool:
        """Whether there is a file."""
        return not math.isnan(self.changed)


@dataclass
class Reader:
    """Reads files beneath a root, and keeps what it read for as long as the file stays the same."""

    root: Path
    _known: dict[tuple[Path, str], tuple[tuple[int, int, int], Found[Any]]] = field(default_factory=dict)
    _logs: dict[Path, "Log"] = field(default_factory=dict)

    def read(self, path: Path, parse: Callable[[BinaryIO], T]) -> Found[T]:
        """Return an open file as ``parse`` reads it; whatever that raises is the file's problem."""
        try:
            descriptor = open_beneath(self.root, path)
        except (OSError, OutsideError) as error:
            return _unreadable(path, error)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(file.fileno())
            signature, key = (about.st_ino, about.st_mtime_ns, about.st_size), (path, parse.__qualname__)
            if key in self._known and self._known[key][0] == signature:
                return self._known[key][1]
            try:
                found: Found[T] = Found(parse(file), "", about.st_mtime)
            except Exception as error:  # a half-written file may fail in any way, and no page may fail with it
                found = Found(None, f"{path.name} cannot be read: {_first_line(error)}", about.st_mtime)
        self._known[key] = (signature, found)
        return found

    def log(self, path: Path) -> "Log":
        """Return a training log, of which only what was appended since the last look is read."""
        log = self._logs.setdefault(path, Log())
        try:
            descriptor = open_beneath(self.root, path)
        except (OSError, OutsideError):
            self._logs[path] = Log()
            return self._logs[path]
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(file.fileno())
            head = file.read(len(log.head))
            if about.st_ino != log.inode or about.st_size < log.offset or head != log.head:
                log = self._logs[path] = Log(about.st_ino)  # replaced, or cut by a run that was resumed
            file.seek(log.offset)
            log.append(file.read(LIMIT))
            log.changed = about.st_mtime
        return log

    def forget(self, kept: set[Path]) -> None:
        """Drop what was read in folders that are not among those."""
        self._known = {key: found for key, found in self._known.items() if key[0].parent in kept}
        self._logs = {path: log for path, log in self._logs.items() if path.parent in kept}


@dataclass
class Log:
    """The lines of a metrics.jsonl so far. A line counts once its end is written; bad lines are counted."""

    inode: int = -1
    offset: int = 0
    head: bytes = b""
    """How the file begins: another file may get the number of one that was deleted."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    bad: int = 0
    torn: bool = False
    """Whether the last line has no end yet."""
    changed: float = float("nan")

    def append(self, data: bytes) -> None:
        """Take in what was appended to the file; the part behind the last line break is left for the next time."""
        whole, _, rest = data.rpartition(b"\n")
        self.torn = bool(rest)
        if not whole and not data.startswith(b"\n"):
            return
        self.head = self.head or whole[:200]
        self.offset += len(whole) + 1
        for text in filter(None, whole.split(b"\n")):
            try:
                line = json.loads(text)
                step = line["step"]
            except (ValueError, KeyError, TypeError, RecursionError):
                self.bad += 1
                continue
            if isinstance(step, int | float) and math.isfinite(step):
                self.lines.append(line)
            else:
                self.bad += 1

    def names(self) -> list[str]:
        """Return the names of all numbers that were logged, in the order in which they appear."""
        found = {key: None for line in self.lines for key, value in line.items() if _is_number(value)}
        return [key for key in found if key not in ("step", "epoch")]

    def last(self, key: str) -> float:
        """Return the last value of a key; NaN where there is none."""
        return next((float(line[key]) for line in reversed(self.lines) if _is_number(line.get(key))), float("nan"))


def whole(file: BinaryIO) -> bytes:
    """Return all of a file. Raises ValueError for one that is larger than a page should read."""
    data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise ValueError(f"it is larger than {LIMIT // 2**20} MiB")
    return data


def is_whole_parquet(file: BinaryIO) -> bool:
    """Return True for a file that begins and ends as parquet does. Raises ValueError for one that was cut off."""
    ends = file.read(4)
    if file.seek(0, os.SEEK_END) >= 12:
        file.seek(-4, os.SEEK_END)
        ends += file.read(4)
    if ends != b"PAR1PAR1":
        raise ValueError("it is not a whole parquet file")
    return True


def is_whole_jsonl(file: BinaryIO) -> bool:
    """Return True for a file whose last line is complete. Raises ValueError for one that ends before."""
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            raise ValueError("its last line is not complete")
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unreadable(path: Path, error: Exception) -> Found[Any]:
    if isinstance(error, OutsideError):
        return Found(None, f"{path.name} is not a file beneath the folder that is shown; it is not read")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Found()
    return Found(None, f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
