"""Which blocks passes may leave out: where a policy differs from its base, what a method reads, and a test."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from safetensors import SafetensorError, safe_open
from torch import nn

from innerpo.data.batching.batch import TokenBatch, make_batch
from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError, one_line
from innerpo.model.base import Base, reference_mode
from innerpo.model.forward.blocks import blocks_name, decoder_blocks
from innerpo.model.forward.layout import REFUSALS
from innerpo.model.forward.layout import TOLERANCE as OF_LAYOUTS
from innerpo.model.forward.outputs import StateRequest, StateShapeError, sequence_outputs
from innerpo.model.forward.sites import RESIDUAL
from innerpo.model.forward.start import entering_states, output_forms
from innerpo.model.forward.trunk_states import TrunkStates, put_tokens
from innerpo.model.trunk import Trunk

log = logging.getLogger(__name__)

# Largest difference from a pass over all blocks that rounding explains: nats per token, root mean square of pooled
# states. States are computed in rows of their own and used in others, so the last bits differ.
TOLERANCE = OF_LAYOUTS | {torch.float32: (1e-4, 1e-4)}


def plan_trunk(
    base: Base, items: Sequence[PromptItem], layout: Layout, adapted: int, reads: StateRequest | None, limit_gb: float
) -> Trunk | None:
    """Return the trunk of a base whose first adapted block is ``adapted``; None, with its reason in the log, for none.

    It ends where a method first reads or changes states (``reads``). Before it is used, two items are run both ways.
    """
    if adapted <= 0 or not items or limit_gb <= 0.0:
        if adapted > 0 and items:
            log.info("trunk: none (data.trunk_cache_gb is 0)")
        return None
    block = first_run_block(adapted, reads)
    if block <= 0:
        log.info("trunk: none (the method reads inside block 0)")
        return None
    found, reason = _tested(base, items, layout, block, limit_gb * 1e9)
    until = f"; the method reads block {block - (_is_residual(reads))}" if block < adapted else ""
    if found is None:
        log.info(f"trunk: none, every pass begins at the embedding ({reason})")
    else:
        log.info(f"trunk: {found.name} once, {found.token_bytes} bytes a token ({reason}{until})")
    return found


def first_run_block(adapted: int, reads: StateRequest | None) -> int:
    """Return the first block that every pass must run.

    The state at the output of a block is that which enters the next, so that it can be read, and changed by a hook,
    without running the block.
    """
    if reads is None or not reads.layers:
        return adapted
    return min(adapted, min(reads.layers) + _is_residual(reads))


def first_changed_block(policy: nn.Module) -> int:
    """Return the first block of which a policy is not its base: with an adapter or a weight that is trained.

    0 where something before the blocks is; the number of blocks where nothing is.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    bare: Any = extract_model_from_parallel(policy)
    blocks = decoder_blocks(bare)

    def changed(module: nn.Module) -> bool:
        adapted = isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        return adapted or any(p.requires_grad for p in module.parameters(recurse=False))

    first = next((i for i, block in enumerate(blocks) if any(map(changed, block.modules()))), len(blocks))
    behind = {id(m) for part in (*blocks, bare.get_output_embeddings()) if part is not None for m in part.modules()}
    elsewhere = any(changed(m) for m in bare.modules() if id(m) not in behind)
    return 0 if elsewhere or any(p.requires_grad for p in bare.get_input_embeddings().parameters()) else first


def first_block_of_adapter(folder: Path, base: Base) -> int:
    """Return the first block that a peft adapter in a folder adapts, by the names of its tensors; 0 if unknown."""
    name = blocks_name(base.model)
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            keys = list(file.keys())
        json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError, SafetensorError):
        return 0
    inside = [key.partition(f"base_model.model.{name}.") for key in keys]
    numbers = [rest.partition(".")[0] for before, _, rest in inside if rest and not before]
    return min(map(int, numbers)) if len(numbers) == len(keys) > 0 and all(map(str.isdigit, numbers)) else 0


def _is_residual(reads: StateRequest | None) -> int:
    return int(reads is not None and reads.site == RESIDUAL)


def _tested(
    base: Base, items: Sequence[PromptItem], layout: Layout, block: int, limit: float
) -> tuple[Trunk | None, str]:
    """Run the shortest and the longest item both ways, the trunk in a row of their own, the rest together."""
    blocks = decoder_blocks(base.model)
    if block >= len(blocks):
        raise UserError(f"block {block} cannot be the first that is run; the model has blocks 0 to {len(blocks) - 1}")
    if {id(p) for p in blocks[:block].parameters()} & {id(p) for p in blocks[block:].parameters()}:
        return None, f"blocks from {block} on share weights with blocks before"
    pair = [min(items, key=lambda i: i.n_tokens), max(items, key=lambda i: i.n_tokens)]
    batch = make_batch(pair, layout, base.pad_id)
    try:
        with reference_mode(base.model):
            return _compare(base, pair, batch, layout, block, limit)
    except StateShapeError:
        return None, "its blocks pass on more than one vector a token"
    except REFUSALS as error:
        return None, f"the model does not run without its first blocks: {one_line(error, 120)}"


def _compare(
    base: Base, pair: Sequence[PromptItem], batch: TokenBatch, layout: Layout, block: int, limit: float
) -> tuple[Trunk | None, str]:
    model, request = base.model, StateRequest((base.n_blocks - 1,))
    with output_forms(model) as forms:
        whole = sequence_outputs(model, batch.to(base.device), request)
    if len(forms) != base.n_blocks:
        return None, f"a pass calls its {base.n_blocks} blocks {len(forms)} times"
    parts = []
    for item in pair:
        alone = make_batch([item], layout, base.pad_id)
        states = entering_states(model, alone.to(base.device), block, forms).cpu()
        if states.shape[:2] != alone.input_ids.shape or states.ndim != 3:
            return None, f"states of shape {tuple(states.shape)} enter block {block}, not one vector a token"
        parts.append(torch.empty(item.n_tokens, states.shape[2], dtype=states.dtype))
        put_tokens(parts[-1], [item], alone, [0], states)
    kept = TrunkStates(block, tuple(forms[:block]), [0, pair[0].n_tokens], torch.cat(parts))
    started = sequence_outputs(model, kept.enter(batch, pair, [0, 1]).to(base.device), request)
    logps = float(((started.logps - whole.logps).abs() / whole.n_tokens).max())
    assert started.pooled is not None
    assert whole.pooled is not None
    pooled = float((started.pooled - whole.pooled).square().mean(-1).sqrt().max())
    differ = f"compared {len(pair)} prompts both ways: log-probs differ by {logps:.1e} nats a token, states by "
    differ += f"{pooled:.1e}"
    most = TOLERANCE.get(parts[0].dtype, TOLERANCE[torch.bfloat16])
    if not (logps <= most[0] and pooled <= most[1]) or math.isnan(logps):
        return None, differ
    token_bytes = parts[0].shape[1] * parts[0].element_size()
    return Trunk(block, tuple(forms), token_bytes, limit), differ
