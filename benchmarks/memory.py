"""The most memory that a process holds in a stretch of its work: of the GPU as torch allocated it, else resident."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Forget what was held before, so that loading does not hide what the work needs. Outside Linux it stays in."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        CLEAR.write_text("5")  # sets the high-water mark to what is held now (man 5 proc)


def peak_bytes() -> int:
    """The peak since ``reset_peak``.

    Linux's own high-water mark (VmHWM) stands for ru_maxrss: that one starts at the memory of the process that
    started this one, and is not always reset with it.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    lines = STATUS.read_text().splitlines() if STATUS.is_file() else []
    marks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    unit = 1 if sys.platform == "darwin" else 1024
    return marks[0] if marks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
