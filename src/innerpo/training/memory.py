"""How much memory a run will need: one training step and one pass of each kind, traced on the model's shape."""

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from innerpo.config.run import RunConfig
from innerpo.data.batching.batch import make_batch
from innerpo.data.batching.order import by_prompt, length_batches
from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.methods.method import Method
from innerpo.model.adapters import add_adapter
from innerpo.model.embedded import NAME as EMBEDDED
from innerpo.model.forward.blocks import text_config
from innerpo.model.forward.outputs import SequenceOutputs, StateRequest, sequence_outputs
from innerpo.model.numerics.hardware import multiplies_in_float32
from innerpo.model.numerics.live_bytes import LiveBytes, as_on
from innerpo.model.shape import Shape
from innerpo.training.largest import Group, largest_group

FOUR_BIT = 0.516
"""Bytes of a weight in 4 bits with doubly quantised scales (QLoRA, arXiv 2305.14314, section 3: 0.127 bits each)."""

ALLOCATOR = 1.45
"""What a CPU's allocator holds over what is in use: freed pieces that fit nothing new (glibc, LOG.md: 1.4 to 1.6)."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a run will hold. What lies on the device and what in the process are told apart.

    ``weights``, ``adapter``, ``gradients`` and ``optimiser`` last; ``step`` is the most that a training step holds
    beside them, ``scoring`` and ``reference`` what those passes do. ``kept`` are the reference's outputs, in the
    process. ``loading`` is the file from which weights are read. ``libraries`` is the process without the model.
    """

    device: str
    weights: int
    adapter: int
    gradients: int
    optimiser: int
    step: int
    reference: int
    scoring: int
    kept: int
    loading: int
    libraries: int
    trained: int
    """Parameters that are trained."""
    tokens: int
    """Cells of the largest micro-batch, padding included."""

    @property
    def training(self) -> int:
        """What the policy, its optimiser and the largest step hold together."""
        return self.weights + self.adapter + self.gradients + self.optimiser + self.step

    @property
    def on_device(self) -> int:
        """The most on the device at a time: in training, or in the passes before and after it."""
        passes = self.weights + max(self.reference, self.adapter + self.scoring)
        return max(self.training, passes)

    @property
    def in_process(self) -> int:
        """The most in the process: libraries, kept outputs, weights as they are read; on a CPU all the rest as well."""
        loading, held = self.libraries + self.weights + self.loading, self.libraries + self.kept
        if self.device == "cpu":
            held += self.weights + int(ALLOCATOR * (self.on_device - self.weights))
        return max(loading, held)


def estimate_memory(
    config: RunConfig,
    shape: Shape,
    method: Method,
    items: Sequence[PromptItem],
    companions: Mapping[str, Any],
    scored: Sequence[PromptItem],
    device: torch.device,
    micro_batch_tokens: int,
) -> Memory:
    """Trace a run on the shape of its model, on its largest batches; return what it will hold on a device."""
    layout: Layout = "one_row" if config.data.layout == "auto" else config.data.layout
    weights, trace = weight_bytes(config, shape), _Tracer(shape, layout, device)
    reference, scoring = 0, 0
    if items:
        reference = trace.a_pass(items, config.data.batch_size, method.fit_request)
    if scored:
        scoring = trace.a_pass(scored, config.eval.batch_size, method.fit_request)
    n_parameters = shape.n_parameters
    kept, group = _kept(config, shape, method, items), Group((), (), 0)
    adapter = gradients = optimiser = step = 0
    trained: list[nn.Parameter] = []
    if not config.method.frozen:
        with torch.device("meta"):
            policy: Any = add_adapter(shape, config.model, config.training.seed)
        trained = [p for p in policy.parameters() if p.requires_grad]
        adapter = gradients = _bytes(trained)
        optimiser = int(adapter * optimiser_states(config.training.optim))
        group = largest_group(config, items, companions, layout, micro_batch_tokens)
        step = trace.a_step(policy, group, method, config.training.gradient_checkpointing)
        if config.training.grad_share_steps:
            step += bytes_of_shares(sum(p.numel() for p in trained), adapter, len(method.terms), group.several)
    return Memory(
        device=device.type,
        weights=weights,
        adapter=adapter,
        gradients=gradients,
        optimiser=optimiser,
        step=step,
        reference=reference,
        scoring=scoring,
        kept=kept,
        loading=n_parameters * (4 if config.model.base_model == EMBEDDED else 2),
        libraries=resident_bytes(),
        trained=sum(p.numel() for p in trained),
        tokens=group.tokens,
    )


def weight_bytes(config: RunConfig, shape: Shape) -> int:
    """Bytes of a base model's weights as they are loaded."""
    return _four_bit(shape.model) if config.model.load_in_4bit else _bytes(shape.model.parameters())


class _Tracer:
    """Runs passes and steps of a shape, and counts."""

    def __init__(self, shape: Shape, layout: Layout, device: torch.device) -> None:
        self.shape, self.layout, self.device = shape, layout, device
        self.in_float32 = multiplies_in_float32(shape.model.dtype, device)

    def a_pass(self, items: Sequence[PromptItem], batch_size: int, request: StateRequest | None) -> int:
        """Bytes of a forward pass without gradient over the batch of the longest items."""
        first = length_batches([item.n_tokens for item in items], batch_size)[0]
        live = LiveBytes(self.shape.model.parameters(), self.in_float32)
        with torch.no_grad(), as_on(self.device, self.shape.model), live:
            self._run(self.shape.model, [items[i] for i in by_prompt(items, first)], request)
        return live.peak

    def a_step(self, policy: Any, group: Group, method: Method, checkpointing: bool) -> int:
        """Bytes of a micro-batch's forward and backward pass beside weights and accumulated gradients."""
        if checkpointing:
            kind = "activation" if hasattr(self.shape.model, "activation_checkpointing_enable") else "gradient"
            enable = getattr(self.shape.model, f"{kind}_checkpointing_enable")
            enable(**{f"{kind}_checkpointing_kwargs": {"use_reentrant": False}})
        policy.train()
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
        known = [t for p in policy.parameters() for t in (p, p.grad) if t is not None]
        live = LiveBytes(known, self.in_float32)
        with as_on(self.device, self.shape.model), live:
            outputs = [self._run(policy, group.items, method.request)]
            outputs += [self._run(policy, items, method.companions[kind]) for kind, items in group.companions if items]
            loss = torch.stack([_loss_like(found) for found in outputs]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        return live.peak

    def _run(self, model: nn.Module, items: Sequence[PromptItem], request: StateRequest | None) -> SequenceOutputs:
        with torch.device("cpu"):
            batch = make_batch(items, self.layout, self.shape.pad_id)
        return sequence_outputs(model, batch.to("meta"), request)


def _loss_like(out: SequenceOutputs) -> Tensor:
    """A loss that keeps what losses keep: pooled states, and the drift of token states from those of the reference."""
    loss = out.logps.sum()
    if out.pooled is not None:
        loss = loss + out.pooled.square().sum()
    if out.token_states is not None:
        loss = loss + (out.token_states - torch.empty_like(out.token_states)).square().sum()
    return loss


def bytes_of_shares(trained: int, gradients: int, terms: int, several: bool) -> int:
    """Bytes that measuring each term's share of the gradient takes (shares.py), beside the step.

    Of a batch in one pass a term's gradient at a time; of several passes those of all terms in float32, and two more
    where one is added to another.
    """
    return gradients + (4 * trained * terms + gradients if several else 0)


def optimiser_states(name: str) -> float:
    """Numbers that an optimiser keeps of each trained one, by its transformers name; two where it is not known."""
    if "8bit" in name:
        return 0.5  # two of a byte each, of parameters in float32
    if name.startswith(("sgd", "adafactor")):
        return 0.0
    return 1.0 if name.startswith(("lion", "rmsprop", "adagrad")) else 2.0


def resident_bytes() -> int:
    """Bytes that this process holds now: the libraries that a run imports too, and the data."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmRSS"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _four_bit(model: nn.Module) -> int:
    """Bytes of a model whose linear maps but the head are in 4 bits."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    packed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and m is not head}
    sizes = ((p.numel(), FOUR_BIT if id(p) in packed else p.element_size()) for p in model.parameters())
    return int(sum(n * size for n, size in sizes))


def _kept(config: RunConfig, shape: Shape, method: Method, items: Sequence[PromptItem]) -> int:
    """Bytes of the reference's outputs on the training pairs: numbers of tokens, pooled states, token states."""
    tokens = sum(len(r) for item in items for r in item.responses)
    found, request = 4 * tokens, method.fit_request
    if request is not None:
        width = len(request.layers) * int(text_config(shape.model).hidden_size)
        states = tokens * width * shape.model.dtype.itemsize
        found += 2 * len(items) * width * 4
        if request.token_states and (config.model.lora_r == 0 or states <= config.data.token_cache_gb * 1e9):
            found += states
    return found
