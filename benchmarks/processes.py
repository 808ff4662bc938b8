"""Run each measurement in a process of its own, one at a time and in turn, so that memory and noise are shared out."""

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from innerpo.cli.console import say
from innerpo.errors import MachineError, UserError
from innerpo.files import write_text

ROOT = Path(__file__).parents[1]
Job = tuple[Any, ...]
"""A function of an importable module and its arguments; it returns a dict of plain figures."""


def alternate(jobs: Mapping[str, Job], repeats: int) -> list[dict[str, Any]]:
    """Run every job once, then every job again, and so on; return a row of figures for each run."""
    rows = []
    for repeat in range(repeats):
        for name, (function, *arguments) in jobs.items():
            say(f"repeat {repeat + 1} of {repeats}: {name}")
            rows.append({"system": name, "repeat": repeat, **in_own_process(function, *arguments)})
    return rows


def in_own_process(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call a function in a new Python process; add the threads that torch had there to what it returns."""
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "figures.json"
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.processes", str(target)],
            input=pickle.dumps((function, arguments)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        )
        if not target.is_file():
            lines = done.stdout.decode(errors="replace").strip().splitlines()
            raise MachineError(f"a measured process ended with {done.returncode}: {' / '.join(lines[-3:])}")
        figures: dict[str, Any] = json.loads(target.read_text())
    if "error" in figures:
        raise UserError(str(figures["error"]))
    return figures


def main() -> None:
    """Run the job that comes in on stdin, and write its figures to the file that is named."""
    function, arguments = pickle.loads(sys.stdin.buffer.read())
    try:
        figures = function(*arguments) | {"threads": torch.get_num_threads()}
    except UserError as error:
        figures = {"error": str(error)}
    write_text(Path(sys.argv[1]), json.dumps(figures))


if __name__ == "__main__":
    main()
