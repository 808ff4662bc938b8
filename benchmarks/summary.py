"""From rows to medians, ratios and tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.machine import circumstances
from benchmarks.options import Options
from innerpo.cli.console import say, stdout
from innerpo.config.run import to_dict
from innerpo.files import write_text

MATMUL = "matmul"
"""Name of the rows that hold the machine's own rate."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """One system on one workload: medians over repeats, with the smallest and largest where ``_range`` stands."""

    seconds: float
    seconds_range: tuple[float, float]
    tokens_per_second: float
    peak_bytes: int
    flops_fraction: float
    time_ratio: float
    """This system's time over the baseline's, the median of the repeats' own ratios: they are neighbours in time."""
    time_ratio_range: tuple[float, float]


def matmul_flops_per_second(rows: Sequence[Row]) -> float:
    """What the machine's matrix products reached: the median of the repeats."""
    return median(float(r["flops_per_second"]) for r in rows if r["system"] == MATMUL)


def summarise(rows: Sequence[Row], baseline: str) -> dict[str, Summary]:
    """Return each system's summary, in the order of the rows."""
    rate = matmul_flops_per_second(rows)
    by_system: dict[str, list[Row]] = {}
    for row in rows:
        if row["system"] != MATMUL:
            by_system.setdefault(row["system"], []).append(row)
    base = [r["seconds"] for r in by_system[baseline]]
    found = {}
    for system, own in by_system.items():
        seconds = [r["seconds"] for r in own]
        ratios = [a / b for a, b in zip(seconds, base, strict=True)]
        middle = median(seconds)
        found[system] = Summary(
            seconds=middle,
            seconds_range=(min(seconds), max(seconds)),
            tokens_per_second=own[0]["tokens"] / middle,
            peak_bytes=int(median(r["peak_bytes"] for r in own)),
            flops_fraction=own[0]["flops"] / middle / rate,
            time_ratio=median(ratios),
            time_ratio_range=(min(ratios), max(ratios)),
        )
    return found


def show(title: str, summaries: Mapping[str, Summary], unit: str, per: int, baseline: str) -> None:
    """Print one workload's table; ``per`` divides seconds into seconds a ``unit``."""
    table = Table(title=Text(title), title_justify="left")
    table.add_column("system")
    heads = (f"s / {unit} [range]", "useful tokens/s", "peak memory", "of matmul rate", f"time / {baseline} [range]")
    for head in heads:
        table.add_column(Text(head), justify="right")
    for name, s in summaries.items():
        low, high = (x / per for x in s.seconds_range)
        table.add_row(
            Text(name),
            Text(f"{s.seconds / per:.3g} [{low:.3g}, {high:.3g}]"),
            f"{s.tokens_per_second:,.0f}",
            f"{s.peak_bytes / 1e9:.2f} GB",
            f"{s.flops_fraction:.1%}",
            Text(f"{s.time_ratio:.3f} [{s.time_ratio_range[0]:.3f}, {s.time_ratio_range[1]:.3f}]"),
        )
    stdout.print(table)


PATHS = ("genies_dir", "cache_dir", "save")
"""Options that name places of one machine: not saved."""


def save(path: Path | None, benchmark: str, options: Options, workloads: Sequence[Mapping[str, Any]]) -> None:
    """Write everything to a json file, whole or not at all; nothing where no path was given."""
    if path is None:
        return
    asked = {name: value for name, value in to_dict(options).items() if name not in PATHS}
    record = {"benchmark": benchmark, **circumstances(), "options": asked, "workloads": list(workloads)}
    write_text(path, json.dumps(record, indent=2) + "\n")
    say(f"saved {path}")
