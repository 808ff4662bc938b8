"""``python -m benchmarks.parity``: the losses of every fast path beside plain training in float32, step by step."""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from benchmarks.models import load_model
from benchmarks.options import ParityOptions
from benchmarks.pairs import load_workload
from benchmarks.plain import plain_losses
from benchmarks.processes import alternate
from benchmarks.summary import save
from benchmarks.systems import Clock, fitted, run_config
from innerpo.config import RunConfig
from innerpo.console import error_line, stdout
from innerpo.errors import UserError
from innerpo.model.load import add_adapter
from innerpo.training.train import train_policy

PLAIN = "plain"
PATHS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "one pass a step": {"data": {"pass_tokens": 1 << 30}},
    "a pass a pair": {"data": {"pass_tokens": 1}},
    "concatenated": {"data": {"layout": "concatenated"}},
    "packed": {"data": {"layout": "packed"}},
    "eager": {"model": {"attention": "eager"}},
    "compiled": {"model": {"compile": "on"}},
    "bfloat16": {"model": {"dtype": "bfloat16"}},
    "bfloat16, sdpa": {"model": {"dtype": "bfloat16", "attention": "sdpa"}},
    "bfloat16, plain": {"model": {"dtype": "bfloat16"}},
}
"""What is set otherwise than by default, by section of a run's config. The last is plain: what bfloat16 changes."""
LIMIT = {"float32": 1e-4, "bfloat16": 1e-2}
"""Largest relative difference of a step's loss from the plain path's that passes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train on every path, print and save; return 0, 1 where a loss differs by more than its limit."""
    options = parse(argv)
    try:
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


def losses(path: str, options: ParityOptions, scratch: Path) -> dict[str, Any]:
    """Train on one path; return the loss of every step."""
    config = path_config(path, options, scratch)
    base = load_model(options, config.model)
    _, items = load_workload(options, base.tokenizer, options.n_pairs)
    method, reference, layout = fitted(base, items, config, options.dataset, scratch)
    policy = add_adapter(base, config.model, config.training.seed)
    if PLAIN in path:
        return {"losses": plain_losses(policy, method, items, config, options.steps, base.pad_id)}
    config.run_dir.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    train_policy(policy, method, items, reference, layout, base.pad_id, config, None, callbacks=[clock])
    return {"losses": clock.losses, "seconds": clock.seconds}


def path_config(path: str, options: ParityOptions, scratch: Path) -> RunConfig:
    """Return the run of one path: the method's defaults, a log line a step, and what the path sets."""
    config = run_config(options.method, options, scratch)
    training = replace(config.training, log_steps=1, max_steps=options.steps)
    changed = {name: replace(getattr(config, name), **fields) for name, fields in PATHS.get(path, {}).items()}
    return replace(config, training=training, **changed)


def compared(row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """Add the largest relative difference of a step's loss from the plain path, and whether its limit holds.

    Plain training in bfloat16 has no limit: it is no fast path, it shows what the type alone changes.
    """
    differences = [abs(a - b) / abs(b) for a, b in zip(row["losses"], plain["losses"], strict=True)]
    worst = max(differences)
    limit = LIMIT["bfloat16" if "bfloat16" in row["system"] else "float32"]
    passes = PLAIN in row["system"] or worst <= limit
    return {**row, "difference": worst, "at_step": differences.index(worst) + 1, "limit": limit, "passes": passes}


def _show(options: ParityOptions, plain: dict[str, Any], found: Sequence[dict[str, Any]]) -> None:
    first, last = plain["losses"][0], plain["losses"][-1]
    table = Table(
        title=f"{options.method}, {options.steps} steps of {options.batch_size} pairs; plain float32 loss "
        f"{first:.5f} -> {last:.5f}",
        title_justify="left",
    )
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
    stdout.print(table)


if __name__ == "__main__":
    sys.exit(main())
