"""``python -m benchmarks.parity``: the losses of every fast path beside plain training in float32, step by step."""

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from benchmarks.options import ParityOptions
from benchmarks.paths import PATHS, PLAIN, losses
from benchmarks.processes import alternate
from benchmarks.summary import save
from innerpo.cli.console import error_line, stdout
from innerpo.errors import UserError

LIMIT = {"float32": 1e-4, "bfloat16": 1e-2}
"""Largest relative difference of a step's loss from the plain path's that passes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train on every path, print and save; return 0, 1 where a loss differs by more than its limit."""
    try:
        options = parse(argv)
        unknown = [p for p in options.paths if p not in PATHS]
        if unknown:
            raise UserError(f"no path {unknown[0]!r}; there are {', '.join(PATHS)}")
        with tempfile.TemporaryDirectory(prefix="innerpo-parity-") as scratch:
            jobs = {p: (losses, p, options, Path(scratch)) for p in (PLAIN, *(options.paths or PATHS))}
            rows = alternate(jobs, 1)
    except UserError as error:
        error_line(str(error))
        return error.exit_code
    found = [compared(row, rows[0]) for row in rows[1:]]
    _show(options, rows[0], found)
    save(options.save, "parity", options, [{"name": f"{options.method}, {options.dataset}", "rows": [rows[0], *found]}])
    return 0 if all(row["passes"] for row in found) else 1


def parse(argv: Sequence[str] | None = None) -> ParityOptions:
    """Read the command line."""
    return tyro.cli(ParityOptions, args=argv, prog="python -m benchmarks.parity")


def compared(row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """Add the largest relative difference of a step's loss from the plain path, and whether its limit holds.

    Plain training in bfloat16 has no limit: it is no fast path, it shows what the type alone changes.
    """
    differences = [abs(a - b) / abs(b) for a, b in zip(row["losses"], plain["losses"], strict=True)]
    worst = max(differences, key=lambda d: math.inf if math.isnan(d) else d)
    limit = LIMIT["bfloat16" if "bfloat16" in row["system"] else "float32"]
    passes = PLAIN in row["system"] or worst <= limit
    return {**row, "difference": worst, "at_step": differences.index(worst) + 1, "limit": limit, "passes": passes}


def _show(options: ParityOptions, plain: dict[str, Any], found: Sequence[dict[str, Any]]) -> None:
    first, last = plain["losses"][0], plain["losses"][-1]
    table = Table()
    for head in ("path", "largest difference of a loss", "at step", "limit", ""):
        table.add_column(head)
    for row in found:
        table.add_row(
            row["system"],
            f"{row['difference']:.1e}",
            str(row["at_step"]),
            f"{row['limit']:.0e}",
            "" if row["passes"] else "FAIL",
        )
    head = f"{options.method}, {options.steps} steps of {options.batch_size} pairs"
    stdout.print(f"{head}; plain float32 loss {first:.5f} -> {last:.5f}", soft_wrap=True)
    stdout.print(table)


if __name__ == "__main__":
    sys.exit(main())
