"""The reference: the base model's outputs on a list of items, computed once and kept on disk.

Three files, so that later runs share what they have in common: log-probabilities (any method), pooled states (any
method with the same site, layers and pooling), token states (drift).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from jaxtyping import Float, Int
from torch import Tensor

from innerpo.data.batching.batch import TokenBatch, make_batch
from innerpo.data.batching.row_plan import Layout
from innerpo.data.divergence import first_divergence
from innerpo.data.tokens import PromptItem
from innerpo.model.ablation import Ablation, ablated
from innerpo.model.base import Base, reference_mode
from innerpo.model.cache import content_key, load_tensors, save_tensors
from innerpo.model.forward.blocks import text_config
from innerpo.model.forward.outputs import SequenceOutputs, StateRequest, sequence_outputs
from innerpo.model.forward.passes import Offsets, collect
from innerpo.model.forward.sites import RESIDUAL
from innerpo.model.forward.trunk_states import TrunkStates
from innerpo.model.identity import environment_key
from innerpo.model.trunk import Trunk

log = logging.getLogger(__name__)

FORMAT = 3


@dataclass(frozen=True)
class Reference:
    """Reference outputs of a list of items, in the items' order; responses (seq) of an item are neighbours.

    ``token_spread`` is E |u - mean u|^2 per layer over all completion tokens: the unit in which drift is measured.
    ``token_rms`` is the mean of rms(h) over them: the size of a state before it is normalised.
    ``token_states`` is None where not requested or above the size limit; drift then runs the reference at each step.
    ``trunk`` holds the states with which passes over the items can begin (trunk.py).
    """

    items: Sequence[PromptItem]
    logps: Float[Tensor, " seq"]
    n_tokens: Int[Tensor, " seq"]
    pooled: Float[Tensor, "layer seq hidden"] | None = None
    token_spread: Float[Tensor, " layer"] | None = None
    token_rms: Float[Tensor, " layer"] | None = None
    token_states: Float[Tensor, "token layer hidden"] | None = None
    token_logps: Float[Tensor, " token"] | None = None
    computed: bool = False
    trunk: TrunkStates | None = None

    @cached_property
    def _offsets(self) -> Offsets:
        return Offsets.of(self.items)

    def spread_over(self, items: Sequence[PromptItem], indices: Sequence[int]) -> "Reference":
        """Return a reference of all ``items`` from this one, which has those at ``indices`` (in that order).

        Log-probabilities of the others are NaN, so that a loss that used one would not be finite. Only for references
        without states.
        """
        at = Offsets.of(items)
        logps, n_tokens = torch.full((at.sequences[-1],), float("nan")), torch.zeros(at.sequences[-1], dtype=torch.long)
        seq = at.sequence_rows(indices)
        logps[seq], n_tokens[seq] = self.logps, self.n_tokens
        token_logps = None
        if self.token_logps is not None:
            token_logps = torch.full((at.tokens[-1],), float("nan"))
            token_logps[at.token_rows(indices)] = self.token_logps
        trunk = None if self.trunk is None else self.trunk.spread_over(len(items), indices)
        return Reference(items, logps, n_tokens, token_logps=token_logps, computed=self.computed, trunk=trunk)

    def batch(self, indices: Sequence[int], layout: Layout, pad_id: int) -> TokenBatch:
        """Return some items as a batch, whose pass begins behind the trunk where there is one."""
        batch = make_batch([self.items[i] for i in indices], layout, pad_id)
        return batch if self.trunk is None else self.trunk.enter(batch, self.items, indices)

    @property
    def outputs(self) -> SequenceOutputs:
        """The outputs on all items, but for token states: what scoring reads."""
        return SequenceOutputs(self.logps, self.n_tokens, self.pooled, token_logps=self.token_logps)

    def select(self, indices: Sequence[int]) -> SequenceOutputs:
        """Return the outputs of some items, laid out as a batch of those items is."""
        seq, starts = self._offsets.sequence_rows(indices), self._offsets.tokens

        def tokens_of(values: Tensor) -> Tensor:
            return torch.cat([values[starts[i] : starts[i + 1]] for i in indices])

        return SequenceOutputs(
            logps=self.logps[seq],
            n_tokens=self.n_tokens[seq],
            pooled=None if self.pooled is None else self.pooled[:, seq],
            token_states=None if self.token_states is None else tokens_of(self.token_states).transpose(0, 1).float(),
            token_logps=None if self.token_logps is None else tokens_of(self.token_logps),
        )


def compute_reference(
    base: Base,
    items: Sequence[PromptItem],
    layout: Layout,
    request: StateRequest | None,
    *,
    batch_size: int,
    cache_dir: Path,
    what: str,
    token_limit_bytes: float = 4e9,
    ablation: Ablation | None = None,
    trunk: Trunk | None = None,
) -> Reference:
    """Return the reference outputs from the cache, running the model only for what is not there yet.

    With an ``ablation`` they are those of the base model under it, and are kept apart from others. With a ``trunk``
    the states that it ends in are got first, and the reference begins there.
    """
    request = request or StateRequest(())
    key = content_key(
        format=FORMAT,
        weights=base.identity,
        environment=environment_key(base.model),
        layout=layout,
        items=[(i.prompt, i.responses) for i in items],
        **({} if ablation is None else {"ablation": ablation.key}),
    )
    n_tokens = sum(len(r) for i in items for r in i.responses)
    size = (
        0
        if not request.token_states
        else n_tokens * base.model.dtype.itemsize * _token_size(base, items, layout, request)
    )
    if size > token_limit_bytes:
        log.info(
            f"reference: token states of {what} would take {size / 1e9:.1f} GB (limit {token_limit_bytes / 1e9:.1f}); "
            "not kept, drift runs the reference at each step instead"
        )
        request = replace(request, token_states=False)
    folder = cache_dir / "reference" / key
    paths = {"logps": folder / "logps.safetensors"}
    where = {} if request.site == RESIDUAL else {"site": request.site}
    if request.layers:
        start = {"divergence": [first_divergence(i) for i in items]} if request.pool == "first_divergence" else {}
        name = content_key(layers=request.layers, pool=request.pool, **where, **start)
        paths["states"] = folder / f"states-{name}.safetensors"
    if request.token_states:
        paths["tokens"] = folder / f"tokens-{content_key(layers=request.layers, **where)}.safetensors"
    with PartialState().main_process_first():
        options: dict[str, Any] = {"batch_size": batch_size, "what": what}
        states = None if trunk is None else trunk.states_of(base, items, layout, cache_dir=cache_dir, **options)
        missing = [k for k, path in paths.items() if base.memory.get(str(path)) is None and not path.is_file()]
        if missing:
            with ablated(base.model, ablation):
                _compute(base, items, layout, request, {k: paths[k] for k in missing}, states, **options)
        else:
            log.info(f"reference: {what} from the cache ({len(items)} prompts)")
        found = {k: v for path in paths.values() for k, v in _remembered(base, path).items()}
    return Reference(items, computed=bool(missing), trunk=states, **found)


def _remembered(base: Base, path: Path) -> dict[str, Tensor]:
    """Return a cache file's tensors from memory, or read them and remember them."""
    found = base.memory.get(str(path))
    if found is None:
        found = load_tensors(path) or {}
        base.memory.put(str(path), found)
    return found


def _token_size(base: Base, items: Sequence[PromptItem], layout: Layout, request: StateRequest) -> int:
    """Numbers per token in the states of all layers; the width of a site is that of one prompt's states."""
    width = int(text_config(base.model).hidden_size)
    if request.site != RESIDUAL and items:
        batch = make_batch(items[:1], layout, base.pad_id).to(next(base.model.parameters()).device)
        with reference_mode(base.model):
            pooled = sequence_outputs(base.model, batch, replace(request, token_states=False)).pooled
        assert pooled is not None
        width = int(pooled.shape[2])
    return width * len(request.layers)


class _TokenSums:
    """What is summed, and where asked for kept, of the token states of a pass over items."""

    def __init__(self, at: Offsets, n_layers: int, dtype: torch.dtype, keep: bool) -> None:
        self.at, self.dtype, self.keep = at, dtype, keep
        self.square, self.rms = torch.zeros(2, n_layers, dtype=torch.float64)
        self.total = self.states = torch.empty(0)

    def add(self, indices: list[int], out: SequenceOutputs) -> None:
        """Add one batch."""
        if out.token_states is None or out.rms is None:
            return
        layers, n, width = out.token_states.shape
        if not self.total.numel():
            self.total = torch.zeros(layers, width, dtype=torch.float64)
            self.states = torch.zeros(self.at.tokens[-1] if self.keep else 0, layers, width, dtype=self.dtype)
        self.total += out.token_states.sum(1).double().cpu()
        self.square += out.token_states.square().sum((1, 2)).double().cpu()
        self.rms += out.rms.double().cpu() * n
        if self.keep:
            self.states[self.at.token_rows(indices)] = out.token_states.transpose(0, 1).to("cpu", self.dtype)

    @property
    def spread(self) -> Float[Tensor, " layer"]:
        """E |u - mean u|^2 per layer."""
        n = self.at.tokens[-1]
        spread: Tensor = (self.square / n - (self.total / n).square().sum(1)).float()
        return spread


def _compute(
    base: Base,
    items: Sequence[PromptItem],
    layout: Layout,
    request: StateRequest,
    paths: dict[str, Path],
    trunk: TrunkStates | None,
    *,
    batch_size: int,
    what: str,
) -> None:
    """Run the model over the items, longest first, and write the files asked for, each atomically."""
    at = Offsets.of(items)
    sums = _TokenSums(at, len(request.layers), base.model.dtype, "tokens" in paths)
    with reference_mode(base.model):
        found = collect(
            base.model,
            items,
            layout,
            base.pad_id,
            batch_size=batch_size,
            request=replace(request, token_states=True),
            what=f"reference on {what}",
            each=sums.add,
            trunk=trunk,
        )
    assert found.token_logps is not None
    contents: dict[str, dict[str, Tensor]] = {
        "logps": {"logps": found.logps, "n_tokens": found.n_tokens, "token_logps": found.token_logps},
        "tokens": {"token_states": sums.states},
    }
    if found.pooled is not None:
        rms = (sums.rms / at.tokens[-1]).float()
        contents["states"] = {"pooled": found.pooled, "token_spread": sums.spread, "token_rms": rms}
    for kind, path in paths.items():
        save_tensors(path, contents[kind])
