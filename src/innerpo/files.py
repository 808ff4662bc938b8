"""Atomic writes of files and folders; errors of the operating system as one-line errors."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from innerpo.errors import MachineError, UserError, one_line


def _umask() -> int:
    """The bits that this process leaves off; the system tells them only when they are set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


FILE_MODE, FOLDER_MODE = (mode & ~_umask() for mode in (0o666, 0o777))
"""Modes of new files and folders, as open() and mkdir() give them: temporary ones are made for their owner alone."""


def existing_folder(folder: str | Path) -> Path:
    """Return the folder of a run or an adapter as a path. Raises UserError where there is none."""
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; give the folder of a run or of a peft adapter")
    return path


@contextmanager
def machine_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write beneath ``path`` into a MachineError naming it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.ENOSPC:
            reason = "no space left on the device"
        raise MachineError(f"cannot write {error.filename2 or error.filename or path}: {reason}") from error
    except (SafetensorError, RuntimeError) as error:  # safetensors and torch.save wrap the system's refusal
        text = one_line(error)
        if not isinstance(error, SafetensorError) and "write" not in text:
            raise
        raise MachineError(f"cannot write {path}: {text}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path beside ``path``, then rename: a reader never sees half a file."""
    with machine_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(FILE_MODE)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda p: p.write_text(text))


def new_folder(path: Path, what: str) -> Path:
    """Return where a new folder goes, links followed. Raises UserError where it could not be made without a loss.

    ``what`` is to go there. An empty folder will do, but not the working directory nor a mount point: the new folder
    takes the place of the empty one.
    """
    folder = path.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{path} exists already; give a new folder for {what}")
    if folder.exists() and (folder.samefile(".") or folder.is_mount()):
        place = "the working directory" if folder.samefile(".") else "a mount point"
        raise UserError(f"{path} is {place}, which cannot be replaced; give a new folder for {what}")
    return folder


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``, on the same disk; at the end it is removed with what is left in it."""
    with machine_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        staging.chmod(FOLDER_MODE)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def staged_directory(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; on success it takes that name, on failure it is removed.

    Raises UserError where ``folder`` has got files meanwhile: they are not ours to delete.
    """
    with staging_folder(folder) as staging:
        yield staging
        try:
            staging.replace(folder)  # of the folders that are there, the system replaces empty ones alone
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise UserError(f"{folder} was written to meanwhile, and is left as it is; give another folder") from error


def cache_root(configured: Path | None) -> Path:
    """Return the folder for caches: the configured one, else INNERPO_CACHE, else ~/.cache/innerpo."""
    if configured is not None:
        return configured.expanduser()
    from_environment = os.environ.get("INNERPO_CACHE")
    return Path(from_environment).expanduser() if from_environment else Path.home() / ".cache" / "innerpo"
