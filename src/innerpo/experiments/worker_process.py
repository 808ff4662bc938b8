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


def main(argv: Sequence[str]) -> int:
    """Work on a plan until no run of it is open; return 0, or 130 after an interrupt."""
    parser = argparse.ArgumentParser(prog="innerpo.experiments.worker_process", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the sweep")
    parser.add_argument("plan", help="id of a plan that is kept with it")
    parser.add_argument("--parent", type=int, default=0, help="process without which this one ends")
    parser.add_argument("--no-wait", action="store_true", help="end where all open runs are at other processes")
    parser.add_argument("--stale", type=float, default=None, help="seconds after which another machine is dead")
    options = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if options.parent:
        threading.Thread(target=_end_with, args=(options.parent,), daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("innerpo").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    try:
        from innerpo.experiments.lease import STALE
        from innerpo.experiments.plan import read_plan
        from innerpo.experiments.worker import work

        plan = read_plan(options.folder, options.plan)
        work(plan, options.folder, stale=options.stale or STALE, wait=not options.no_wait)
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
