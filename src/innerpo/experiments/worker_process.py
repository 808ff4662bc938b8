"""A worker as a process: ``python -m innerpo.experiments.worker_process FOLDER PLAN``. Any launcher may start it."""

import argparse
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
ENDS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


def main(argv: Sequence[str]) -> int:
    """Work on a plan until no run of it is open; return 0, or 130 after an interrupt."""
    parser = argparse.ArgumentParser(prog="innerpo.experiments.worker_process", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the sweep")
    parser.add_argument("plan", help="id of a plan that is kept with it")
    parser.add_argument("parent", type=int, nargs="?", default=0, help="number of the process that this one ends with")
    parser.add_argument(
        "wait", type=float, nargs="?", help="seconds to wait for runs that others are at; else no limit"
    )
    options = parser.parse_args(argv)
    return serve(options.folder, options.plan, options.parent, wait=True if options.wait is None else options.wait)


def serve(folder: Path, plan_id: str, parent: int = 0, *, stale: float | None = None, wait: bool | float = True) -> int:
    """Work on a plan that is kept with a folder, as a process of its own; return its exit code.

    SIGINT, SIGTERM, and the signals by which a cluster says that its time is up, end it so that its run can be taken
    up. ``parent``: it ends when that process has ended. ``stale`` and ``wait`` are those of ``worker.work``.
    """
    for name in ENDS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    if parent:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("innerpo").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    try:
        from innerpo.experiments.lease import STALE
        from innerpo.experiments.plan import read_plan
        from innerpo.experiments.worker import work

        work(read_plan(folder, plan_id), folder, stale=STALE if stale is None else stale, wait=wait)
    except KeyboardInterrupt:
        logging.getLogger(__name__).info("interrupted")
        return INTERRUPTED
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """Interrupt this process when the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    while True:  # again, should something have swallowed the interrupt
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
