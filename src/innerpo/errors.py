"""Errors that a person can act on: one line that names what was wrong, where, and what would be right."""

import difflib
import re
from collections.abc import Iterable

FIELDS: set[str] = set()
"""Dotted names of all config fields (``training.resume``); ``innerpo.config.run`` fills it in."""

_WORD = re.compile(r"(?<![\w./-])[a-z]\w*(?:\.[a-z]\w*)*(?![\w/-]|\.\w)")


class UserError(Exception):
    """A fault in what was requested (a name, a file, a value). The command line prints one line, exit code 2.

    ``fields``: the dotted names of the config fields that the error is about, so that a caller can offer them in its
    own form (the command line: as flags). Where none are given, they are those that stand in the message.
    """

    exit_code = 2

    def __init__(self, message: str, *fields: str) -> None:
        """Make an error of one line."""
        super().__init__(message)
        self.fields = fields or fields_in(message)


class MachineError(UserError):
    """A fault of the machine (disk full, path not writable, no memory). One line, exit code 3."""

    exit_code = 3


class FailedRunsError(UserError):
    """Of several runs some failed; the others are done. Exit code 1."""

    exit_code = 1


def one_line(error: BaseException, most: int = 1000) -> str:
    """Return what an error says in one line of at most so many characters; its type's name where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, where the rest is advice; its type's name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is Python's or torch's error (that one by its name: who plans and lists runs does not load torch)."""
    return isinstance(error, MemoryError) or any(k.__name__ == "OutOfMemoryError" for k in type(error).__mro__)


def is_device_lost(error: BaseException) -> bool:
    """Whether it is torch's word that the accelerator is out of order: every later call of this process fails too.

    An illegal access or an ECC error, say, or an assertion in a kernel. Not a lack of memory.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = "AcceleratorError" in kinds or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
    # What cuBLAS says (a size that it does not take, no room for its handle) does not spoil the device.
    other = any(text in str(error) for text in ("out of memory", "CUBLAS_STATUS", "CUDNN_STATUS"))
    return said and not other and not is_out_of_memory(error)


def fields_in(text: str) -> tuple[str, ...]:
    """Return the config fields that a text names, each once, in their order; ``model.safetensors`` is none."""
    return tuple(dict.fromkeys(word for word in _WORD.findall(text) if word in FIELDS))


def mark_fields(text: str, before: str) -> str:
    """Return the text with something put before every config field that it names (``--`` makes a flag)."""
    return _WORD.sub(lambda found: before + found[0] if found[0] in FIELDS else found[0], text)


def near_matches(word: str, known: Iterable[str], n: int = 3) -> str:
    """Return ``; did you mean 'a' or 'b'?``, or the known names where nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=n, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f"; known: {shown}" if names else ""
