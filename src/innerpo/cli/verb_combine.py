"""``innerpo combine``: weighted sums of adapters, means over seeds, LiNeS and truncation, without training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from innerpo.cli.console import say
from innerpo.cli.flags import parse
from innerpo.errors import UserError


@dataclass(frozen=True)
class CombineCommand:
    """Write a weighted sum of LoRA adapters as one adapter, which innerpo eval scores."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="RUN")]
    """Folders of runs, or of plain LoRA adapters, on one base model."""
    out: Path | None = None
    """New folder for the adapter (must be given)."""
    weights: tuple[float, ...] = ()
    """Weight of each adapter's update (1 -0.5); else their mean, a soup."""
    lines: float = 1.0
    """LiNeS: factor on the first block's update, rising in a straight line to 1 on the last; 1 = off."""
    blocks: int = 0
    """Blocks of the model, for lines; 0 = up to the last block that has an adapter."""
    rank: int = 0
    """Most singular directions of the sum that each module keeps; 0 = all."""
    energy: float = 1.0
    """Keep as few singular directions of each module as hold this share of its squared norm."""


def combine(args: list[str]) -> None:
    """Add adapters up: combine outputs/dpo_math_seed1 outputs/dpo_math_seed2 --weights 1 -0.5 --out=outputs/sum."""
    command = parse(CombineCommand, args, "innerpo combine")
    if command.out is None:
        raise UserError("innerpo combine needs --out, a new folder for the adapter")
    from innerpo.training.combine import Arithmetic, combine_adapters

    arithmetic = Arithmetic(command.lines, command.blocks, command.rank, command.energy)
    record = combine_adapters(command.runs, command.weights, command.out, arithmetic)
    say(f"{record.label}: {record.energy_kept:.1%} of the energy kept" if arithmetic.truncates else record.label)
    say(f"written to {command.out}")
