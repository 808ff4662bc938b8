"""Errors that a person can act on: one line that names what was wrong, where, and what would be right."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A fault in what was asked for (a name, a file, a value). The command line prints one line, exit code 2."""

    exit_code = 2


class MachineError(UserError):
    """A fault of the machine (disk full, path not writable, no memory). One line, exit code 3."""

    exit_code = 3


def near_matches(word: str, known: Iterable[str], n: int = 3) -> str:
    """Return ``; did you mean 'a' or 'b'?``, or the known names where nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=n, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f"; known: {shown}" if names else ""
