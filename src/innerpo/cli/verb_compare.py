"""The verb compare: two methods on the same prompts and seeds."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from innerpo.cli.flags import parse


@dataclass(frozen=True)
class CompareCommand:
    """Compare two methods, paired by prompt and seed: differences with intervals, tests, and what could be found."""

    a: Annotated[str, tyro.conf.Positional, arg(metavar="A")]
    """Folder of a scored run, or a pattern in quotes for several seeds ('outputs/dpo_math_seed*')."""
    b: Annotated[str, tyro.conf.Positional, arg(metavar="B")]
    """The other method; differences are A less B."""
    format: Literal["text", "markdown", "latex", "csv", "json"] = "text"
    """How the table is written."""
    scorer: str = "mean_logp"
    """What ranks the responses: mean_logp, sum_logp, per_character, implicit, inner, longer."""


def compare(args: list[str]) -> None:
    """Compare methods on the same prompts and seeds: compare outputs/innerpo-none_math_seed1 outputs/dpo_math_seed1."""
    command = parse(CompareCommand, args, "innerpo compare")
    from innerpo.cli.over_runs import show_comparison

    show_comparison(command.a, command.b, command.scorer, command.format)
