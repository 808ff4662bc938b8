"""What a repository holds before a push: files that an earlier push left, and those of others."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from innerpo.errors import UserError
from innerpo.sharing.names import PUSHED, is_model, read_pushed

_PATIENCE = 10.0
"""Seconds for the first answer of the Hub: a dry run is not to wait long for a network that is not there."""


@dataclass(frozen=True)
class Held:
    """Names of a branch's files, and of those that an earlier push left there, by its own list."""

    names: tuple[str, ...] = ()
    pushed: frozenset[str] = frozenset()

    def stale(self, files: Container[str]) -> tuple[str, ...]:
        """Return what an earlier push left and is not among ``files``."""
        return tuple(name for name in self.names if name in self.pushed and name not in files)

    def check_room(self, repo: str) -> None:
        """Raise UserError where a run or a model lies there that no push left: it would become half another one."""
        theirs = [name for name in self.names if is_model(name)]
        if theirs and not self.pushed:
            raise UserError(
                f"{repo} holds a run or a model that no push of InnerPO left there ({_some(theirs)}), so nothing is "
                "uploaded; name a new repository or branch, or delete those files first"
            )


def held_by(api: Any, repo: str, revision: str | None) -> Held:
    """Return what a branch holds: nothing without a repository; a branch that is not there yet begins as main."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        api.repo_info(repo, revision=revision, timeout=_PATIENCE)
    except RepositoryNotFoundError:
        return Held()
    except RevisionNotFoundError:
        return Held() if revision is None else held_by(api, repo, None)
    names = tuple(api.list_repo_files(repo, revision=revision))
    if PUSHED not in names:
        return Held(names)
    with TemporaryDirectory(prefix="innerpo-push-") as folder:
        found = api.hf_hub_download(repo, PUSHED, revision=revision, local_dir=folder)
        return Held(names, read_pushed(Path(found)))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
