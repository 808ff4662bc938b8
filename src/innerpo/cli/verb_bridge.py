"""``innerpo bridge``: data sets for other programs, and their results back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from innerpo.cli import help as help_pages
from innerpo.cli.console import say, stdout
from innerpo.cli.flags import parse, show_choices
from innerpo.cli.options import unknown
from innerpo.config.data import DataConfig
from innerpo.config.model import ModelConfig
from innerpo.errors import UserError


@dataclass(frozen=True)
class BridgeExportCommand:
    """Write a data set for another program: a task of lm-evaluation-harness, TRL's jsonl, or a folder for the Hub."""

    dataset: Annotated[str, tyro.conf.Positional, arg(metavar="DATASET")]
    """GENIES name, ethics:justice, embedded:NAME, owner/name or a file."""
    dir: Annotated[Path, tyro.conf.Positional, arg(metavar="DIR")]
    """Folder to write to."""
    to: Literal["lm-eval", "trl", "hub"] = "lm-eval"
    """Form: lm-eval (YAML, jsonl), trl (jsonl) or hub (parquet files with a card)."""
    split: Literal["train", "test", "both"] | None = None
    """Split to export; else test for lm-eval, and both for the others."""
    max_prompts: int = 0
    """Prompts exported, the same choice as in scoring; 0 = all."""
    negatives: Literal["all", "one"] = "all"
    """Worse responses of a prompt: all, or one (the same each time)."""
    chat: bool = False
    """Export plain texts as chat messages (trl, hub)."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)


@dataclass(frozen=True)
class BridgeImportCommand:
    """Read the samples that lm-evaluation-harness logged of exported tasks, and write them as scores."""

    results: Annotated[Path, tyro.conf.Positional, arg(metavar="RESULTS")]
    """Folder that the harness wrote to; its samples may lie in folders beneath."""
    base: str = ""
    """Name of the base model's folder there, so that its scores are those of the base."""
    against: Path | None = None
    """Folder of a run: compare its own log-probabilities with those of the harness."""
    out: Path | None = None
    """Folder for scores, pairs and sets; else RESULTS."""


def bridge(args: list[str]) -> None:
    """Export data sets for lm-evaluation-harness, TRL and the Hub; import results: bridge export math DIR."""
    if args and args[0] in WAYS:
        WAYS[args[0]](args[1:])
    elif help_pages.wanted(args):
        show_choices(
            {way: function.__doc__ or "" for way, function in WAYS.items()}, "innerpo bridge", bridge.__doc__ or ""
        )
    elif args and not args[0].startswith("-"):
        raise unknown("way", args[0], WAYS, f"innerpo bridge takes {' or '.join(WAYS)}")
    else:
        raise UserError(f"innerpo bridge needs a first word: {' or '.join(WAYS)}")


def export_for(args: list[str]) -> None:
    """Write a data set for another program: bridge export math --to=lm-eval DIR."""
    command = parse(BridgeExportCommand, args, "innerpo bridge export")
    from innerpo.evaluation.bridges.export import export_dataset

    found = export_dataset(
        command.dataset,
        command.to,
        command.dir,
        command.data,
        command.model,
        split=command.split,
        max_prompts=command.max_prompts,
        negatives=command.negatives,
        chat=command.chat,
    )
    for note in found.notes:
        say(f"note: {note}")
    counts = ", ".join(f"{pairs} pairs of the split {split}" for split, pairs in found.pairs.items())
    say(f"{counts} written to {found.folder}")


def import_from(args: list[str]) -> None:
    """Read results of lm-evaluation-harness: bridge import DIR/results."""
    command = parse(BridgeImportCommand, args, "innerpo bridge import")
    from innerpo.cli.render_bridge import agreement_table, counts_table
    from innerpo.evaluation.bridges.agreement import agreement
    from innerpo.evaluation.bridges.lm_eval_results import read_results
    from innerpo.evaluation.facts import read_scores

    scores = read_results(command.results, command.base)
    own = None if command.against is None else read_scores(command.against)
    out = command.out or command.results
    scores.write(out)
    stdout.print(counts_table(scores))
    if own is not None:
        stdout.print(agreement_table(agreement(scores, own)))
    say(f"written to {out}")


WAYS = {"export": export_for, "import": import_from}
