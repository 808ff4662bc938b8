"""``innerpo merge``: a run's base with its adapter added, as a model of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from innerpo.cli.console import say
from innerpo.cli.flags import parse
from innerpo.config.yaml import trusted_config
from innerpo.files import existing_folder


@dataclass(frozen=True)
class MergeCommand:
    """Write a run's base with its adapter added as a model of its own, which plain transformers and vLLM load."""

    run: Annotated[Path, tyro.conf.Positional, arg(metavar="RUN")]
    """Folder of a run or of a peft adapter."""
    dir: Annotated[Path, tyro.conf.Positional, arg(metavar="DIR")]
    """New folder for the model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the saved weights: the float32 sum is rounded once; auto = the type in which the base is stored."""
    trust_remote_code: bool = False
    """Run the code that comes with the base model, where the run's config asks for it. Read that code first."""


def merge(args: list[str]) -> None:
    """Add a run's adapter to its base and save the model: merge outputs/dpo_math_seed1 outputs/merged."""
    command = parse(MergeCommand, args, "innerpo merge")
    config = trusted_config(existing_folder(command.run), command.trust_remote_code)
    from innerpo.sharing.merge import merge_run

    merged = merge_run(command.run, config, command.dir, command.dtype)
    say(f"written to {merged.folder}: {merged.millions:.0f}M parameters in {merged.dtype}")
