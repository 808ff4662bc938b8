"""What every section of a config refuses."""

import dataclasses
import math
from typing import Any

from innerpo.errors import UserError


def check_finite(record: Any, prefix: str) -> None:
    """Raise UserError, naming the field, where a number of a record is nan or infinite."""
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
        for v in values:
            if isinstance(v, float) and not math.isfinite(v):
                raise UserError(f"{prefix}.{f.name} must be a finite number, got {v}")
