"""``python -m benchmarks.trunk``: training and scoring behind a shared trunk, beside the same on whole passes.

Times are processor time of the process, so that other programs count little; the paths take turns, step by step of the
repeats. Three paths: ``all`` has an adapter in every block (a run without model.adapt_layers), ``plain`` one in the
blocks that are asked for, and whole passes, ``trunk`` the same adapter behind the trunk.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table
from transformers import TrainerCallback

from benchmarks.models import load_model
from benchmarks.options import TrunkOptions
from benchmarks.pairs import load_prompts, load_workload
from benchmarks.summary import save
from benchmarks.systems import run_config
from innerpo.cli.console import error_line, say, stdout
from innerpo.config.run import RunConfig
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.evaluation.score import score_items
from innerpo.model.base import Base
from innerpo.model.reference import compute_reference
from innerpo.model.trunk_check import plan_trunk
from innerpo.training.prepare import adapted, first_adapted_block, prepare_items, reads_of
from innerpo.training.train import train_policy

PATHS = ("all", "plain", "trunk")
PASSES = {"all": ("all", "all"), "plain": (), "trunk": ("plain", "trunk", "trunk", "plain")}
"""Scoring passes of each path's policy: one policy is scored both ways."""
LIMIT = 1e-5
"""Largest difference of a loss, and of a log-probability relative to its size, between ``plain`` and ``trunk``."""


class Steps(TrainerCallback):  # type: ignore[misc]
    """Processor seconds and loss of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the processor time."""
        self.started = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the processor time of the step."""
        self.seconds.append(time.process_time() - self.started)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the step's loss."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Train and score on every path, print and save; return 0, 1 where plain and trunk differ."""
    try:
        options = parse(argv)
        with tempfile.TemporaryDirectory(prefix="innerpo-trunk-") as scratch:
            rows = measured(options, Path(scratch))
    except UserError as error:
        error_line(str(error))
        return error.exit_code
    worst = max(row["difference"] for row in rows)
    _show(options, rows, worst)
    save(options.save, "trunk", options, [{"name": f"{options.method}, {options.dataset}", "rows": rows}])
    return 0 if worst <= LIMIT else 1


def parse(argv: Sequence[str] | None = None) -> TrunkOptions:
    """Read the command line."""
    return tyro.cli(TrunkOptions, args=argv, prog="python -m benchmarks.trunk")


def measured(options: TrunkOptions, scratch: Path) -> list[dict[str, Any]]:
    """Return the figures of each path: processor seconds of each step and of each scoring pass, losses."""
    base = load_model(options)
    _, items = load_workload(options, base.tokenizer, options.n_pairs)
    prompts = load_prompts(options, base.tokenizer, options.prompts)
    rows: dict[str, dict[str, Any]] = {p: {"system": p, "steps": [], "scoring": [], "difference": 0.0} for p in PATHS}
    for repeat in range(options.repeats):
        for path in PATHS:
            say(f"repeat {repeat + 1} of {options.repeats}: {path}")
            _measure(path, options, scratch, base, items, prompts, rows)
    plain, trunk = rows["plain"], rows["trunk"]
    losses, logps = (list(zip(plain[k], trunk[k], strict=True)) for k in ("losses", "logps"))
    of_scores = max(abs(a - b) / max(1.0, abs(a)) for a, b in logps)
    trunk["difference"] = max(of_scores, *(abs(a - b) for a, b in losses))
    return [rows[p] for p in PATHS]


def _measure(
    path: str,
    options: TrunkOptions,
    scratch: Path,
    base: Base,
    items: Sequence[PromptItem],
    prompts: Sequence[PromptItem],
    rows: dict[str, dict[str, Any]],
) -> None:
    config, row, steps = _config(path, options, scratch), rows[path], Steps()
    prepared = prepare_items(config, base, items, cache_dir=scratch)
    layout, request = prepared.layout.layout, reads_of(prepared.method)
    first = first_adapted_block(config, base.n_blocks)
    trunk = plan_trunk(base, prompts, layout, first, request, config.data.trunk_cache_gb)
    shared: dict[str, Any] = {"batch_size": options.batch_size, "what": "prompts"}
    kept = compute_reference(base, prompts, layout, request, cache_dir=scratch, trunk=trunk, **shared).trunk
    with adapted(prepared, config, cache_dir=scratch) as (policy, method):
        train_policy(policy, method, prepared.pairs, config, callbacks=[steps])
        row["steps"] += steps.seconds[1:]  # the first pays for buffers
        row["losses"] = steps.losses
        for name in PASSES[path]:
            started, behind = time.process_time(), kept if name == "trunk" else None
            found = score_items(policy, prompts, layout, base.pad_id, request=request, trunk=behind, **shared)
            rows[name]["scoring"].append(time.process_time() - started)
            rows[name]["logps"] = found.logps.tolist()


def _config(path: str, options: TrunkOptions, scratch: Path) -> RunConfig:
    config = run_config(options.method, options, scratch)
    method = replace(config.method, layers=options.layers or config.method.layers)
    model = config.model if path == "all" else replace(config.model, adapt_layers=options.adapt_layers)
    data = config.data if path == "trunk" else replace(config.data, trunk_cache_gb=0.0)
    training = replace(config.training, log_steps=1, max_steps=options.steps)
    config = replace(config, method=method, model=model, data=data, training=training, output_dir=scratch / path)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    return config


def _show(options: TrunkOptions, rows: Sequence[dict[str, Any]], worst: float) -> None:
    table = Table()
    for head in ("path", "s / step", "trunk / path", "s / scoring pass", "trunk / path"):
        table.add_column(head)
    medians = [(statistics.median(row["steps"]), statistics.median(row["scoring"])) for row in rows]
    for row, (step, scoring) in zip(rows, medians, strict=True):
        ratios = (f"{medians[-1][0] / step:.2f}", f"{medians[-1][1] / scoring:.2f}")
        table.add_row(row["system"], f"{step:.2f}", ratios[0], f"{scoring:.2f}", ratios[1])
    head = f"{options.method}, {options.steps} steps of {options.batch_size} pairs, adapter on {options.adapt_layers}"
    stdout.print(f"{head}; plain and trunk differ by {worst:.1e}{'' if worst <= LIMIT else ' FAIL'}", soft_wrap=True)
    stdout.print(table)


if __name__ == "__main__":
    sys.exit(main())
