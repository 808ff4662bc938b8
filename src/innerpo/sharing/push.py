"""Push: a run as a repository of the Hub, in one commit."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innerpo.config.run import RunConfig
from innerpo.errors import UserError, one_line
from innerpo.sharing.held import Held, held_by
from innerpo.sharing.package import Package, packed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pushed:
    """What was uploaded (or would be): sizes by name in the repository; the commit's address, "" for a dry run; the
    names of files that an earlier push left and this one deleted.
    """

    repo: str
    files: dict[str, int]
    url: str = ""
    deleted: tuple[str, ...] = ()


def push_run(
    folder: Path,
    config: RunConfig,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    merged: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Upload a run to ``owner/name`` on the Hub in one commit; the repository is made where it does not exist.

    What is uploaded, and what of an earlier push is deleted, is logged first; with ``dry_run`` that is all.
    ``revision`` is a branch, made where it does not exist. ``merged`` uploads the merged model in place of the adapter.
    ``private`` makes a new repository private. Raises UserError for a name that the Hub does not take, without a token,
    where the Hub refuses, where ``private`` is asked for and the repository is public, and where it holds a run or a
    model that no push left there.
    """
    _check_name(repo)
    with packed(folder, config, repo, merged, revision) as package:
        sizes = {name: path.stat().st_size for name, path in package.files.items()}
        for name, size in sizes.items():
            log.info(f"{size:>12,}  {name}")
        for note in package.notes:
            log.info(f"note: {note}")
        log.info(f"{len(sizes)} files, {package.bytes:,} bytes, to {repo}{f' ({revision})' if revision else ''}")
        if dry_run:
            return Pushed(repo, sizes, "", _foreseen(package, repo, revision))
        url, deleted = _upload(package, repo, private, revision, f"Upload {folder.resolve().name}")
    return Pushed(repo, sizes, url, deleted)


def _foreseen(package: Package, repo: str, revision: str | None) -> tuple[str, ...]:
    """Log what a push would delete, and return it; without a token or the Hub that is not known, and said."""
    from huggingface_hub import HfApi, get_token

    unknown = "note: what of an earlier push would be deleted is not known"
    if get_token() is None:
        log.info(f"{unknown}: there is no token of the Hub")
        return ()
    try:
        with hub_errors(f"{repo} could not be read"):
            held = held_by(HfApi(), repo, revision)
    except UserError as error:
        log.info(f"{unknown}: {error}")
        return ()
    return _stale(held, package, repo)


def _stale(held: Held, package: Package, repo: str) -> tuple[str, ...]:
    """Return what is to be deleted, logged; nothing but what an earlier push left."""
    held.check_room(repo)
    stale = held.stale(package.files)
    for name in stale:
        log.info(f"{'delete':>12}  {name} (of an earlier push)")
    return stale


def _upload(
    package: Package, repo: str, private: bool, revision: str | None, message: str
) -> tuple[str, tuple[str, ...]]:
    """Upload in one commit; return its address and what it deleted."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise UserError("there is no token of the Hub that may write; log in by `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    with hub_errors(f"{repo} could not be pushed"):
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise UserError(f"{repo} is there already and is public, so nothing was uploaded; make it private first")
        stale = _stale(held_by(api, repo, revision), package, repo)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        operations: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in package.files.items()]
        operations += [CommitOperationDelete(name) for name in stale]
        with warnings.catch_warnings():  # scores are parquet files, and belong beside their model
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            commit = api.create_commit(repo, operations, commit_message=message, revision=revision)
    return str(commit.commit_url), stale


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn what the Hub or the network refuses into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Its client's errors have no ancestor of ours, and the client changes with its version (httpx, httpx2).
        if not isinstance(error, OSError | ValueError | RuntimeError) and "httpx" not in type(error).__module__:
            raise
        causes = [error, *([error.__cause__] if error.__cause__ is not None else [])]
        said = ": ".join(one_line(e, 300) for e in causes)
        raise UserError(f"{what}: {said}") from error


def _check_name(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{repo!r} is no name of a repository: {one_line(error)}") from error
    if "/" not in repo:
        raise UserError(f"{repo!r} is no name of a repository; write owner/name")
