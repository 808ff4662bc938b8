"""Parse ``method.layers`` (which decoder blocks are read) and ``model.adapt_layers`` (which carry an adapter)."""

import math
import re

from innerpo.errors import UserError

ALL = "all"
_RANGE = re.compile(r"range\(([^()]*)\)")


def adapted_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """Return the block numbers that ``model.adapt_layers`` names: ``all``, or as ``resolve_layers``."""
    return tuple(range(n_layers)) if text == ALL else resolve_layers(text, n_layers, "model.adapt_layers")


def resolve_layers(text: str, n_layers: int, field: str = "method.layers") -> tuple[int, ...]:
    """Return the block numbers (0 .. n_layers - 1, sorted) that a list of indices, fractions and ranges names.

    Negative indices count from the end. A number with a decimal point is a fraction of the depth: ``0.5`` is block
    round(0.5 * (n_layers - 1)). ``range(a,b,step)`` excludes b, as Python's range does; a and b may be fractions or
    negative. The state of block l is the residual stream at its output, h_{l+1} in the notation of docs/methods.md.
    Raises UserError if the text is malformed or names a block that does not exist.
    """
    ranges = (_range(inside, n_layers, text, field) for inside in _RANGE.findall(text))
    found = [index for indices in ranges for index in indices]
    found += [_index(word, n_layers, text, field) for word in re.split(r"[,\s]+", _RANGE.sub("", text)) if word]
    if not found:
        raise UserError(f"{field}={text!r} names no layer; the model has blocks 0 to {n_layers - 1}")
    return tuple(sorted(set(found)))


def _range(inside: str, n_layers: int, text: str, field: str) -> list[int]:
    parts = [p.strip() for p in inside.split(",")]
    if len(parts) not in (2, 3) or not all(parts):
        raise UserError(f"{field}={text!r}: range takes (start, stop) or (start, stop, step)")
    start = _index(parts[0], n_layers, text, field)
    stop = n_layers if parts[1] == str(n_layers) else _index(parts[1], n_layers, text, field)
    step = parts[2] if len(parts) == 3 else "1"
    if not step.isdigit() or int(step) < 1:
        raise UserError(f"{field}={text!r}: the step of a range must be a whole number of at least 1")
    return list(range(start, stop, int(step)))


def _index(word: str, n_layers: int, text: str, field: str) -> int:
    try:
        value = float(word)
        if not math.isfinite(value):
            raise ValueError(word)
    except ValueError:
        raise UserError(f"{field}={text!r}: {word!r} is not a number or a range") from None
    if re.search(r"[.eE]", word):
        if not 0.0 <= value <= 1.0:
            raise UserError(f"{field}={text!r}: the fraction {word} does not lie between 0 and 1")
        return round(value * (n_layers - 1))
    index = int(value) + (n_layers if value < 0 else 0)
    if not 0 <= index < n_layers:
        raise UserError(
            f"{field}={text!r}: there is no layer {word}; the model has blocks 0 to {n_layers - 1} "
            f"(or -{n_layers} to -1)"
        )
    return index
