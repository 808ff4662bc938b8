"""``python -m benchmarks.train``: what an optimiser step costs in this project and in TRL, on the same pairs."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tyro

from benchmarks.flops import matmul_rate
from benchmarks.options import TrainOptions
from benchmarks.pairs import SYNTHETIC
from benchmarks.processes import Job, alternate
from benchmarks.summary import MATMUL, Row, matmul_flops_per_second, save, show, summarise
from benchmarks.systems import measure
from innerpo.cli.console import error_line, say, stdout
from innerpo.errors import UserError

DPO = ("innerpo-dpo", "trl", "trl-precomputed", "trl-no-checkpointing")
"""Systems that compute the same loss."""
# Largest difference of mean losses (nats) on the same pairs. The first warm-up steps differ by rounding only; the
# timed steps follow in each system's own order of the pairs.
WARMUP_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 1e-2}
AFTER_TOLERANCE = 0.15


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and save; return 0, 1 where the losses do not agree, or a UserError's code."""
    try:
        options, found = parse(argv), list[dict[str, Any]]()
        with tempfile.TemporaryDirectory(prefix="innerpo-bench-") as scratch:
            for name, one in _workloads(options):
                found.append(_run(name, one, Path(scratch)))
                save(options.save, "train", options, found)  # a series takes long; what is done is kept
        if options.scaling:
            _show_scaling(found)
    except UserError as error:
        error_line(str(error))
        return error.exit_code
    failures = [failure for workload in found for failure in workload["failures"]]
    for failure in failures:
        error_line(f"FAIL {failure}")
    return 1 if failures else 0


def parse(argv: Sequence[str] | None = None) -> TrainOptions:
    """Read the command line."""
    return tyro.cli(TrainOptions, args=argv, prog="python -m benchmarks.train")


def _workloads(options: TrainOptions) -> Iterator[tuple[str, TrainOptions]]:
    """Names and options of what is measured: the one that was asked for, or the scaling series."""
    if not options.scaling:
        yield f"{options.dataset}, {options.batch_size} pairs a step", options
        return
    for multiple in options.multiples:
        size = options.batch_size * multiple
        yield f"{options.dataset}, {size} pairs a step", replace(options, batch_size=size, pairs=0)
    for length in options.lengths:
        yield (
            f"{length} tokens a row, {options.batch_size} pairs a step",
            replace(options, dataset=f"{SYNTHETIC}{length}", pairs=0),
        )


def _run(name: str, options: TrainOptions, scratch: Path) -> dict[str, Any]:
    """Measure every system on one workload, in turn, and show its table."""
    jobs: dict[str, Job] = {s: (measure, s, options, scratch) for s in options.systems}
    jobs[MATMUL] = (matmul_rate, options.torch_dtype, options.threads)
    rows = alternate(jobs, options.repeats)
    baseline = "trl" if "trl" in options.systems else options.systems[0]
    summaries = summarise(rows, baseline)
    rate = matmul_flops_per_second(rows)
    tokens = rows[0]["tokens"] // options.steps
    title = (
        f"{name} ({tokens} useful tokens); {options.dtype}, {options.repeats} repeats of {options.steps} steps, "
        f"matmul {rate / 1e9:.0f} GFLOP/s"
    )
    show(title, summaries, "step", options.steps, baseline)
    failures = disagreements(rows, options.dtype)
    say_losses(rows)
    return {
        "name": name,
        "batch_size": options.batch_size,
        "steps": options.steps,
        "baseline": baseline,
        "matmul_flops_per_second": rate,
        "rows": rows,
        "summary": {system: asdict(s) for system, s in summaries.items()},
        "failures": [f"{name}: {failure}" for failure in failures],
    }


def disagreements(rows: Sequence[Row], dtype: str) -> list[str]:
    """Say where systems with the same loss do not have the same losses, or where the work was not the same."""
    rows = [r for r in rows if r["system"] != MATMUL]
    found = [
        f"{r['system']} was measured on other work than {rows[0]['system']}"
        for r in rows
        if (r["tokens"], r["flops"]) != (rows[0]["tokens"], rows[0]["flops"])
    ]
    same = [r for r in rows if r["system"] in DPO]
    for row in same[1:]:
        steps = zip(row["warmup_losses"], same[0]["warmup_losses"], strict=True)
        warm = max(abs(a - b) for a, b in steps)
        after = abs(row["dpo_loss_after"] - same[0]["dpo_loss_after"])
        for what, value, limit in (
            ("in warm-up, on the same batch", warm, WARMUP_TOLERANCE[dtype]),
            ("after training", after, AFTER_TOLERANCE),
        ):
            if not value <= limit:
                found.append(f"{row['system']} and {same[0]['system']} differ by {value:.2g} in loss {what}")
    return found


def say_losses(rows: Sequence[Row]) -> None:
    """Tell the losses of each system's first repeat, so that a wrong fast path can be seen."""
    for row in rows:
        if row["system"] != MATMUL and row["repeat"] == 0:
            losses = ", ".join(f"{loss:.5f}" for loss in row["warmup_losses"])
            say(
                f"{row['system']}: warm-up losses {losses}; DPO loss of the first batch afterwards "
                f"{row['dpo_loss_after']:.5f}"
            )


def _show_scaling(found: Sequence[dict[str, Any]]) -> None:
    """Print how seconds a step grow along each series, against its first workload."""
    for series in ("pairs a step", "tokens a row"):
        members = [w for w in found if (" tokens a row" in w["name"]) == (series == "tokens a row")]
        if not members:
            continue
        stdout.print(f"\nSeconds a step against {series}, and as a multiple of the first:")
        for system in members[0]["summary"]:
            times = [w["summary"][system]["seconds"] / w["steps"] for w in members]
            shown = "; ".join(
                f"{w['name']}: {t:.4g} (x{t / times[0]:.2f})" for w, t in zip(members, times, strict=True)
            )
            stdout.print(f"{system}: {shown}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
