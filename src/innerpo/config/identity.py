"""What each config field changes: the run's result, the scores of a given adapter, both, or nothing.

A field says so in its metadata (``field(default=0, metadata=NOTHING)``). A field without metadata changes what its
section changes, as the section's own field of ``RunConfig`` says; without that, the run.

The measure is exact arithmetic. A field that only chooses how the same numbers are computed (attention kernel, layout
of rows, size of a micro-batch, compiled blocks, shards) moves the last bits and counts as nothing.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

What = Literal["run", "scores"]
_KEY = "innerpo.changes"

RUN: Mapping[str, frozenset[What]] = {_KEY: frozenset({"run"})}
"""Changes what is trained: directions, transform, adapter."""
SCORES: Mapping[str, frozenset[What]] = {_KEY: frozenset({"scores"})}
"""Changes the scores of a given adapter."""
BOTH: Mapping[str, frozenset[What]] = {_KEY: frozenset({"run", "scores"})}
"""Changes what is trained, and the scores of an adapter that was trained otherwise."""
NOTHING: Mapping[str, frozenset[What]] = {_KEY: frozenset()}
"""Changes neither: where files lie, what is logged, how the same numbers are computed."""


@dataclass(frozen=True)
class Setting:
    """One config field with its dotted name (``training.lr``), its value and what it changes."""

    name: str
    value: Any
    changes: frozenset[What]


def settings(config: Any, prefix: str = "", changes: frozenset[What] = RUN[_KEY]) -> Iterator[Setting]:
    """Yield every field of a config, the fields of its sections in the place of the section."""
    for f in dataclasses.fields(config):
        value, own = getattr(config, f.name), f.metadata.get(_KEY, changes)
        if dataclasses.is_dataclass(value):
            yield from settings(value, f"{prefix}{f.name}.", own)
        else:
            yield Setting(prefix + f.name, value, own)


def run_id(config: Any) -> str:
    """Return 12 hex digits that stand for all fields that change what is trained."""
    return _hash(config, "run")[:12]


def scores_id(config: Any) -> str:
    """Return 8 hex digits that stand for all fields that change the scores of a given adapter."""
    return _hash(config, "scores")[:8]


def _hash(config: Any, what: What) -> str:
    counted = {s.name: s.value for s in settings(config) if what in s.changes}
    return hashlib.sha256(json.dumps(counted, sort_keys=True, default=str).encode()).hexdigest()
