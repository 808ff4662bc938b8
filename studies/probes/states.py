"""What a base model computes on the responses of a data set: log-probabilities, pooled states, states of heads."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.data.batching.batch import TokenBatch
from innerpo.data.divergence import first_divergence
from innerpo.data.tokens import PromptItem
from innerpo.model.base import Base, reference_mode
from innerpo.model.cache import content_key, load_tensors, save_tensors
from innerpo.model.forward.layout import choose_layout
from innerpo.model.forward.outputs import Pool, StateRequest, pool_weights, rms_normalise, sequence_outputs
from innerpo.model.forward.passes import Offsets, batches
from innerpo.model.forward.sites import read_points
from innerpo.model.identity import environment_key

POOLS: tuple[Pool, ...] = ("mean", "last", "first_divergence")


@dataclass(frozen=True)
class States:
    """Outputs of the base on the responses of some items, in their order.

    ``pooled`` has one entry for each of POOLS; ``heads`` is the input of every block's attention output projection at
    the last token. States are normalised by their root mean square.
    """

    items: Sequence[PromptItem]
    logps: Float[Tensor, " seq"]
    n_tokens: Int[Tensor, " seq"]
    pooled: Float[Tensor, "pool layer seq hidden"]
    heads: Float[Tensor, "block seq width"]


def measure(base: Base, items: Sequence[PromptItem], layers: Sequence[int], folder: Path, batch_size: int) -> States:
    """Return the states of some items from a file of the folder; the model runs only for what is not there yet."""
    where = {"weights": base.identity, "environment": environment_key(base.model), "layers": tuple(layers)}
    texts = [(i.prompt, i.responses, first_divergence(i)) for i in items]
    path = folder / f"{content_key(**where, items=texts)}.safetensors"
    found = load_tensors(path)
    if found is None:
        found = _compute(base, items, layers, batch_size)
        save_tensors(path, found)
    return States(items, **found)


def _compute(base: Base, items: Sequence[PromptItem], layers: Sequence[int], batch_size: int) -> dict[str, Tensor]:
    """Run the model once over all items; pools and heads are read in the same pass."""
    at, blocks = Offsets.of(items), range(base.n_blocks)
    layout = choose_layout(base.model, items, base.pad_id).layout
    request, n = StateRequest(tuple(layers), token_states=True), at.sequences[-1]
    logps, n_tokens = torch.zeros(n), torch.zeros(n, dtype=torch.long)
    pooled, heads = [torch.empty(0)] * n, [torch.empty(0)] * n
    with reference_mode(base.model):
        for indices, batch in batches(items, layout, base.pad_id, batch_size, base.device, "states"):
            with _last_tokens(base, blocks, batch) as read:
                out = sequence_outputs(base.model, batch, request)
            assert out.token_states is not None
            by_pool = torch.stack([pool_weights(batch, pool) @ out.token_states for pool in POOLS])
            rows = at.sequence_rows(indices)
            logps[rows], n_tokens[rows] = out.logps.cpu(), out.n_tokens.cpu()
            last = torch.stack(read)
            for i, row in enumerate(rows):
                pooled[row], heads[row] = by_pool[:, :, i].cpu(), last[:, i].cpu()
    return {"logps": logps, "n_tokens": n_tokens, "pooled": torch.stack(pooled, 2), "heads": torch.stack(heads, 1)}


@contextmanager
def _last_tokens(base: Base, blocks: Sequence[int], batch: TokenBatch) -> Iterator[list[Tensor]]:
    """Read the heads' outputs at every response's last token during a pass; the list has a state per block."""
    ends = batch.completion[batch.n_tokens.cumsum(0) - 1]
    read: list[Tensor] = []
    with ExitStack() as stack:
        for point in read_points(base.model, blocks, "o_proj_in"):
            handle = point.on_state(lambda state: read.append(rms_normalise(state.flatten(0, 1)[ends])))
            stack.callback(handle.remove)
        yield read
