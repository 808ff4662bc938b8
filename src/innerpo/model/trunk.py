"""The shared trunk: the blocks before the first one with an adapter are run once, and the states they end in are kept.

Kept in one file per list of items, by the content of weights and tokens, for every layout, method, strength and seed.
"""

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem, hash_of_items
from innerpo.errors import UserError
from innerpo.files import machine_errors
from innerpo.model.base import Base, reference_mode
from innerpo.model.cache import content_key, load_tensors, save_tensors
from innerpo.model.forward.passes import batches
from innerpo.model.forward.start import entering_states
from innerpo.model.forward.trunk_states import TrunkStates, put_tokens
from innerpo.model.identity import environment_key

log = logging.getLogger(__name__)

FORMAT = 1
FOLDER = "trunk"


@dataclass(frozen=True)
class Trunk:
    """Blocks 0 to ``block`` - 1 of a base, tested to be replaceable by their kept states (trunk_check.py).

    ``forms`` is what every block of the model returns (Start). A token takes ``token_bytes``. All files together take
    at most ``limit_bytes``; those not used for longest go first.
    """

    block: int
    forms: tuple[int, ...]
    token_bytes: int
    limit_bytes: float

    @property
    def name(self) -> str:
        """``blocks 0..14``."""
        return f"blocks 0..{self.block - 1}" if self.block > 1 else "block 0"

    def states_of(
        self, base: Base, items: Sequence[PromptItem], layout: Layout, *, batch_size: int, cache_dir: Path, what: str
    ) -> TrunkStates | None:
        """Return the states of items, from the cache if they are there; None, with a log line, if they take too much.

        No adapter may be on the base's blocks before ``block``.
        """
        size = self.token_bytes * sum(item.n_tokens for item in items)
        if size > self.limit_bytes:
            log.info(
                f"trunk: {self.name} of {what} would take {_shown(size)} (limit {_shown(self.limit_bytes)}, "
                "data.trunk_cache_gb); not kept, passes begin at the embedding"
            )
            return None
        path = cache_dir / FOLDER / f"{self._key(base, items)}.safetensors"
        found = base.memory.get(str(path)) or _loaded(path)
        if found is None:
            states = _run(base, items, layout, self, batch_size, f"{self.name} on {what}")
            if not bool(torch.isfinite(states).all()):
                log.warning(f"trunk: states of {what} are not all finite; not kept, passes begin at the embedding")
                return None
            _keep(path, states, size, self.limit_bytes)
            found = _loaded(path) or {"states": states}  # memory-mapped; it takes no memory of its own
            log.info(f"trunk: {self.name} once on {what}, {_shown(size)}")
        else:
            log.info(f"trunk: {self.name} on {what} from the cache, {_shown(size)}")
        base.memory.put(str(path), found)
        with contextlib.suppress(OSError):  # gone, or in a cache that others own
            os.utime(path)
        return TrunkStates(self.block, self.forms[: self.block], _starts(items), found["states"])

    def _key(self, base: Base, items: Sequence[PromptItem]) -> str:
        return content_key(
            format=FORMAT,
            weights=base.identity,
            environment=environment_key(base.model),
            block=self.block,
            items=hash_of_items(items),
        )


def _starts(items: Sequence[PromptItem]) -> list[int]:
    """Row of each item's first token in a table of all."""
    return [0, *accumulate(item.n_tokens for item in items)][:-1]


def _run(
    base: Base, items: Sequence[PromptItem], layout: Layout, trunk: Trunk, batch_size: int, what: str
) -> Float[Tensor, "token hidden"]:
    """Run the trunk over items, longest first; return the states of each token, once."""
    starts, kept = _starts(items), torch.empty(0)
    with reference_mode(base.model):
        for indices, batch in batches(items, layout, base.pad_id, batch_size, base.device, what):
            states = entering_states(base.model, batch, trunk.block, trunk.forms).cpu()
            if not kept.numel():
                shape = (sum(i.n_tokens for i in items), states.shape[2])
                kept = torch.full(shape, float("nan"), dtype=states.dtype)  # what stays unwritten must show
            put_tokens(kept, [items[i] for i in indices], batch.to("cpu"), [starts[i] for i in indices], states)
    return kept


def _loaded(path: Path) -> dict[str, Tensor] | None:
    """Read a file of states; None where there is none, or where another process has just deleted it to make room."""
    try:
        return load_tensors(path)
    except UserError:
        if path.exists():
            raise
        return None


def _keep(path: Path, states: Tensor, size: int, limit: float) -> None:
    """Write a file of states where there is room, one process after another: else two would count the same room."""
    with machine_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path.parent}.lock"):
            _make_room(path.parent, size, limit)
            save_tensors(path, {"states": states})


def _make_room(folder: Path, size: int, limit: float) -> None:
    """Delete the files not used for longest until another of ``size`` bytes fits. Who has one open keeps its pages."""
    files = []
    for path in (p for p in folder.glob("*.safetensors") if not p.name.startswith(".")):  # those are being written
        with contextlib.suppress(OSError):  # another process deleted it
            files.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(n for _, n, _ in files)
    for _, n, path in sorted(files):
        if total + size <= limit:
            break
        log.info(f"trunk: {path.name} ({_shown(n)}) makes room")
        path.unlink(missing_ok=True)
        total -= n


def _shown(size: int | float) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
