"""What a run would do, found without training it, without its weights and without writing anything."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from innerpo.config.run import RunConfig
from innerpo.data.batching.row_plan import Layout
from innerpo.data.lengths import Lengths, lengths
from innerpo.data.pairs import PreferencePair
from innerpo.data.tokens import PromptItem
from innerpo.data.training_pairs import training_pairs
from innerpo.errors import UserError
from innerpo.evaluation.prepared import tokenise_sets, with_names
from innerpo.evaluation.sets import load_sets
from innerpo.files import cache_root
from innerpo.methods.method import Method, build_method
from innerpo.methods.transforms.sizes import check_sizes
from innerpo.model.forward.blocks import text_config
from innerpo.model.forward.sites import RESIDUAL, read_points
from innerpo.model.layer_spec import resolve_layers
from innerpo.model.loading import device as device_at_hand
from innerpo.model.numerics.hardware import BYTES_OF_TRAINING, choose_compile, choose_micro_batch_tokens
from innerpo.model.reference import Reference
from innerpo.model.shape import Shape, find_config, load_shape
from innerpo.run import check_before_loading
from innerpo.training.companions import Companions, companion_items
from innerpo.training.estimate import forward_tokens, rate_of_shape
from innerpo.training.memory import Memory, estimate_memory, weight_bytes
from innerpo.training.prepare import (
    chosen_pairs,
    pairs_per_step,
    planned_steps,
    reads_before,
    seen_pairs,
    training_items,
)
from innerpo.training.run_folder import is_finished

log = logging.getLogger(__name__)

NO_LIMIT = 10**9


@dataclass(frozen=True)
class Plan:
    """A run that was checked and not started: its sizes, what is cut, and what it will need.

    ``seconds`` are by phase, on the device at hand. ``available`` are the bytes that are free there now, 0 where
    nobody knows. ``notes`` are what a reader must know of how the figures were found.
    """

    config: RunConfig
    folder: Path
    n_parameters: int
    layers: tuple[int, ...]
    n_blocks: int
    n_pairs: int
    n_seen: int
    steps: int
    pairs_per_step: int
    lengths: tuple[Lengths, ...]
    sets: tuple[str, ...]
    memory: Memory
    available: int
    seconds: Mapping[str, float]
    notes: tuple[str, ...]


def plan_run(config: RunConfig) -> Plan:
    """Check all that a run needs, and return what it would do. Raises UserError for what would stop it."""
    check_before_loading(config)
    known = training_pairs(config)
    sets = [] if config.eval.skip else load_sets(config, known)
    device = device_at_hand()
    shape = load_shape(config.model, cache_root(config.data.cache_dir), device)
    method = build_method(config.method, resolve_layers(config.method.layers, shape.n_blocks))
    if method.fit_request is not None or any(method.companions.values()):
        read_points(shape.model, method.layers, config.method.site)
        if config.method.site == RESIDUAL:
            check_sizes(config.method, int(text_config(shape.model).hidden_size))
    reads_before(config, method, shape.n_blocks)
    here = _refused_here(config, shape, method, device)
    if config.eval.ref_model is not None and not config.eval.skip:
        try:
            find_config(replace(config.model, base_model=config.eval.ref_model, revision=None))
        except UserError as error:
            raise UserError(f"eval.ref_model: {error}", "eval.ref_model") from error
    items, scored = training_items(config, shape, known), tokenise_sets(sets, shape, config)
    n_parameters = shape.n_parameters  # before an adapter is put on
    everything = [item for found in scored.values() for item in found]
    memory = memory_of(config, shape, method, items, everything, device)
    rate = rate_of_shape(shape.model, items, device)
    work = forward_tokens(config, items, with_names(sets, scored), shape.n_blocks)
    return Plan(
        config=config,
        folder=config.run_dir,
        n_parameters=n_parameters,
        layers=method.layers if config.method.reads_states else (),
        n_blocks=shape.n_blocks,
        n_pairs=len(items),
        n_seen=len(seen_pairs(config, len(items))),
        steps=0 if config.method.frozen else planned_steps(config, len(items)),
        pairs_per_step=pairs_per_step(config),
        lengths=_lengths(config, shape, known),
        sets=tuple(f"{s.name}: {s.source}" if s.pairs else s.note for s in sets),
        memory=memory,
        available=available_bytes(device),
        seconds={name: tokens / rate for name, tokens in work.items()},
        notes=(*_notes(config, shape, device), *here),
    )


def memory_of(
    config: RunConfig,
    shape: Shape,
    method: Method,
    items: Sequence[PromptItem],
    scored: Sequence[PromptItem],
    device: torch.device,
) -> Memory:
    """Return the memory of a run on a device, its companions included."""
    seen, none = seen_pairs(config, len(items)), torch.empty(0)
    companions = {}
    for kind in method.companions:
        some, of_pair = companion_items(config, shape, items, kind, seen)
        companions[kind] = Companions(some, Reference(some, none, none.long()), of_pair)
    wanted = config.data.micro_batch_tokens
    taken = weight_bytes(config, shape)
    if config.model.lora_r == 0:  # the policy is a copy of the base, and all of it is trained
        taken = 2 * taken + BYTES_OF_TRAINING * shape.n_parameters
    tokens = int(choose_micro_batch_tokens(wanted, shape.model, taken).value)
    return estimate_memory(config, shape, method, items, companions, scored, device, tokens)


def available_bytes(device: torch.device) -> int:
    """Return the bytes that are free on a device; of a CPU those that the system can give out."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def _lengths(config: RunConfig, shape: Shape, known: Sequence[PreferencePair]) -> tuple[Lengths, ...]:
    """Return the lengths of the training pairs' prompts and responses before any cut."""
    data = config.data
    whole = replace(data, max_prompt_tokens=NO_LIMIT, max_response_tokens=NO_LIMIT)
    items = shape.pair_tokenizer(whole).training_items(chosen_pairs(config, known))
    return (
        lengths("prompt", [len(item.prompt) for item in items], data.max_prompt_tokens),
        lengths("response", [len(r) for item in items for r in item.responses], data.max_response_tokens),
    )


def _refused_here(config: RunConfig, shape: Shape, method: Method, device: torch.device) -> list[str]:
    """What this machine would refuse and another may do. Raises UserError for what none does."""
    found = []
    if config.model.load_in_4bit and device.type != "cuda":
        found.append("model.load_in_4bit needs a CUDA device, and this machine has none: the run cannot begin here")
    try:
        choose_compile(config.model, shape.model.dtype, device, 1, method.hooks_inside_blocks)
    except UserError as error:
        if method.hooks_inside_blocks:
            raise
        found.append(f"the run would fail here: {error}")
    return found


def _notes(config: RunConfig, shape: Shape, device: torch.device) -> tuple[str, ...]:
    """Say what the figures rest on."""
    layout: Layout | Any = config.data.layout
    found = [f"shape of the model: {shape.source}; weights are not read"]
    if shape.tokenizer_note:
        found.append(shape.tokenizer_note)
    if layout == "auto":
        found.append("layout: one_row is assumed; training tries it on the weights first")
    if config.eval.ref_model is not None:
        found.append("the time of scoring eval.ref_model is not counted")
    if config.model.load_in_4bit:
        found.append("memory of a step is that of weights in half precision; 4 bits make further copies")
    if device.type != "cpu":
        found.append("memory on the device does not count its driver's context (0.3 to 0.6 GB)")
    if is_finished(config):
        found.append("the run is finished: training.resume would train nothing and score it again")
    return tuple(found)
