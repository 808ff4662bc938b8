"""``innerpo push``: a run as a repository of the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from innerpo.cli.console import say
from innerpo.cli.flags import parse
from innerpo.config.yaml import trusted_config
from innerpo.files import existing_folder


@dataclass(frozen=True)
class PushCommand:
    """Upload a run to the Hub in one commit: adapter, directions, config, scores, and a card with tables."""

    run: Annotated[Path, tyro.conf.Positional, arg(metavar="RUN")]
    """Folder of a run or of a peft adapter."""
    repo: Annotated[str, tyro.conf.Positional, arg(metavar="REPO")]
    """Name of the repository, owner/name; it is made where it does not exist."""
    private: bool = False
    """Make the repository private; one that is there already must be private."""
    revision: str | None = None
    """Branch to upload to; else main."""
    merged: bool = False
    """Upload the merged model in place of the adapter."""
    dry_run: bool = False
    """Only list what would be uploaded, and deleted of an earlier push."""
    trust_remote_code: bool = False
    """Run the code that comes with the base model, where the run's config asks for it. Read that code first."""


def push(args: list[str]) -> None:
    """Upload a run to the Hub: push outputs/dpo_math_seed1 owner/name --dry-run."""
    command = parse(PushCommand, args, "innerpo push")
    config = trusted_config(existing_folder(command.run), command.trust_remote_code or not command.merged)
    from innerpo.sharing.push import push_run

    options = {"private": command.private, "merged": command.merged, "dry_run": command.dry_run}
    pushed = push_run(command.run, config, command.repo, revision=command.revision, **options)
    say("nothing was uploaded (dry run)" if command.dry_run else f"uploaded: {pushed.url}")
