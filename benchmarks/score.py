"""``python -m benchmarks.score``: what log-probabilities of responses cost here and in lm-evaluation-harness.

Both systems get the same loaded model and tokenizer and the same token ids: lm-eval tokenises a context and a
continuation in its own way, so its Hugging Face backend is entered one step behind that, at ``_loglikelihood_tokens``,
which ``loglikelihood`` calls with the ids. This project's responses end with EOS, so lm-eval scores that EOS too.
Tokenisation is not timed in either. Both run the same number of responses in a forward pass.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import tyro

from benchmarks.flops import matmul_rate
from benchmarks.options import ScoreOptions
from benchmarks.processes import Job, alternate
from benchmarks.scorers import measure
from benchmarks.summary import MATMUL, Row, matmul_flops_per_second, save, show, summarise
from innerpo.cli.console import error_line, stdout
from innerpo.errors import UserError

TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2}
"""Largest relative difference of log-probabilities."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and save; return 0, 1 where the log-probabilities do not agree, or a UserError's code."""
    try:
        options, found = parse(argv), list[dict[str, Any]]()
        for n in options.responses:
            found.append(_run(n, options))
            save(options.save, "score", options, found)
    except UserError as error:
        error_line(str(error))
        return error.exit_code
    for workload in found:
        if workload["failed"]:
            error_line(
                f"FAIL {workload['name']}: log-probabilities differ by {workload['largest_relative_difference']:.2g} "
                f"relative, more than {TOLERANCE[options.dtype]:g}"
            )
    return 1 if any(workload["failed"] for workload in found) else 0


def parse(argv: Sequence[str] | None = None) -> ScoreOptions:
    """Read the command line."""
    return tyro.cli(ScoreOptions, args=argv, prog="python -m benchmarks.score")


def _run(n_responses: int, options: ScoreOptions) -> dict[str, Any]:
    """Measure the systems in turn on prompts with so many responses each, and show their table."""
    jobs: dict[str, Job] = {s: (measure, s, n_responses, options) for s in options.systems}
    jobs[MATMUL] = (matmul_rate, options.torch_dtype, options.threads)
    rows = alternate(jobs, options.repeats)
    baseline = "lm-eval" if "lm-eval" in options.systems else options.systems[0]
    summaries, total = summarise(rows, baseline), options.prompts * n_responses
    name = f"{options.dataset}, {options.prompts} prompts of {n_responses} responses"
    show(f"{name}; {options.dtype}, {options.repeats} repeats", summaries, "response", total, baseline)
    for system, s in summaries.items():
        stdout.print(f"{system}: {total / s.seconds:.1f} responses/s", markup=False)
    difference = largest_relative_difference(rows)
    stdout.print(f"largest relative difference of log-probabilities: {difference:.2g}\n", markup=False)
    return {
        "name": name,
        "responses_per_prompt": n_responses,
        "baseline": baseline,
        "matmul_flops_per_second": matmul_flops_per_second(rows),
        "rows": [{k: v for k, v in row.items() if k != "logps"} for row in rows],
        "summary": {k: asdict(s) | {"responses_per_second": total / s.seconds} for k, s in summaries.items()},
        "largest_relative_difference": difference,
        "failed": not difference <= TOLERANCE[options.dtype],
    }


def largest_relative_difference(rows: Sequence[Row]) -> float:
    """Largest difference of a response's log-probability between any run and the first, relative to its size.

    The size counts as 1 nat at least: a response of a few nearly certain tokens has a log-probability near 0.
    """
    first, *others = (row["logps"] for row in rows if row["system"] != MATMUL)
    return max(
        (abs(a - b) / max(abs(b), 1.0) for other in others for a, b in zip(other, first, strict=True)), default=0.0
    )


if __name__ == "__main__":
    sys.exit(main())
