"""Choose the batch layout: test whether a model handles rows of several responses (4-D masks, restarted positions)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from innerpo.data.batching.batch import TokenBatch, make_batch
from innerpo.data.batching.row_plan import ROW_TOKENS, Layout
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError, one_line
from innerpo.model.forward.blocks import decoder_blocks, text_config
from innerpo.model.forward.masks import FLEX, layer_kinds
from innerpo.model.forward.outputs import SequenceOutputs, StateRequest, StateShapeError, sequence_outputs

# Largest difference between the layouts that rounding explains: (log-probabilities in nats per token, root mean square
# of the difference of pooled states, whose own root mean square is about 1). Measured with SmolLM2-135M in bfloat16 on
# 84 batches of seven GENIES sets: up to 0.21 and 0.018 (raven_easy, arc_easy: responses of two tokens). A model that
# ignores position ids was off by at least 0.09 in the states of the worst response, one that ignores the mask by 0.23;
# in log-probabilities (at least 0.06) they do not differ from rounding, so the states decide.
TOLERANCE = {torch.float32: (1e-3, 1e-3), torch.float16: (1e-1, 1e-2), torch.bfloat16: (5e-1, 4e-2)}
# Config fields of windows that a model's own code counts in positions of the row (GPT-Neo), beside ``sliding_window``,
# which the masks here count in position ids.
ROW_WINDOW = re.compile(r"^(?!.*sliding).*(window_size|attention_window|local_attention|attention_chunk)")

# What models raise for inputs that they do not support.
REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError)


@dataclass(frozen=True)
class LayoutChoice:
    """The chosen layout, and the reason for the log."""

    layout: Layout
    reason: str


@dataclass(frozen=True)
class _Difference:
    """Largest differences between a layout and one response per row; ``pooled`` is None where no states were read."""

    logps: float
    pooled: float | None
    failure: str = ""

    def within(self, dtype: torch.dtype) -> bool:
        """Whether rounding explains the difference. Log-probabilities are the weaker test: alone, they are held to a
        fifth of their limit.
        """
        logps, pooled = TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16])
        return self.logps <= logps / 5 if self.pooled is None else self.logps <= logps and self.pooled <= pooled

    def words(self) -> str:
        """The differences for the log."""
        if self.failure:
            return f"the model refuses such a batch: {self.failure}"
        states = "" if self.pooled is None else f", pooled states by {self.pooled:.1e}"
        return f"log-probs differ by {self.logps:.1e} nats a token{states}"


def choose_layout(
    model: nn.Module,
    items: Sequence[PromptItem],
    pad_id: int,
    wanted: Layout | Literal["auto"] = "auto",
) -> LayoutChoice:
    """Return ``one_row`` if it gives the same numbers as one response per row, else ``concatenated``.

    Two batches are run both ways: the first two items, and the longest item in a row at least as long as any that
    sharing prompts can make (``ROW_TOKENS``), so that a limit on the distance in a row shows. ``items`` should hold
    everything that will be run. With flex attention, which skips masked blocks, ``packed`` takes the place of
    ``one_row``. Raises UserError if ``wanted`` names one of the two and the model does not handle it.
    """
    if wanted == "concatenated":
        return LayoutChoice("concatenated", "set by data.layout")
    flex = text_config(model)._attn_implementation == FLEX
    tried: Layout = wanted if wanted != "auto" else "packed" if flex else "one_row"
    honoured, reason = _test(model, items, pad_id, tried)
    if wanted != "auto" and not honoured:
        raise UserError(
            f"data.layout={wanted} gives other numbers than one response a row ({reason}); use data.layout=concatenated"
        )
    return LayoutChoice(tried if honoured else "concatenated", reason)


def _test(model: nn.Module, items: Sequence[PromptItem], pad_id: int, tried: Layout) -> tuple[bool, str]:
    """Return whether the model handles a layout, and the reason."""
    unknown = set(layer_kinds(model)) - {"full_attention", "sliding_attention"}
    if unknown:
        return False, f"the model has layers of kind {', '.join(sorted(unknown))}"
    window = _row_window(model)
    if window:
        return False, f"the model has an attention window of its own ({window}), which may count positions in the row"
    weight = next(p for p in model.parameters() if p.is_floating_point())
    mixed = torch.is_autocast_enabled(weight.device.type)
    dtype = torch.get_autocast_dtype(weight.device.type) if mixed else weight.dtype
    short = _difference(model, items[:2], pad_id, tried)
    if not short.within(dtype):
        return False, f"compared one batch both ways: {short.words()}"
    long, n_tokens = _difference_in_a_long_row(model, max(items, key=lambda i: i.n_tokens), pad_id, tried)
    if not long.within(dtype):
        return False, f"compared a row of {n_tokens} tokens both ways: {long.words()}"
    pooled = None if long.pooled is None or short.pooled is None else max(long.pooled, short.pooled)
    worst = _Difference(max(long.logps, short.logps), pooled)
    return True, f"compared one batch and a row of {n_tokens} tokens both ways: {worst.words()}"


def _row_window(model: nn.Module) -> str:
    """Return a config field, as ``name=value``, of an attention window that the masks here do not know; else ''."""
    config = text_config(model)
    if getattr(config, "attention_layers", None) and "local" not in config.attention_layers:
        return ""  # a GPT-Neo with global layers alone
    fields = {name: value for name, value in vars(config).items() if ROW_WINDOW.match(name)}
    return next((f"{n}={v}" for n, v in fields.items() if isinstance(v, int) and not isinstance(v, bool) and v > 0), "")


def _difference(model: nn.Module, items: Sequence[PromptItem], pad_id: int, tried: Layout) -> _Difference:
    """Compare all responses of some items."""
    return _compare(model, items, items, range(sum(len(item.responses) for item in items)), pad_id, tried)


def _difference_in_a_long_row(
    model: nn.Module, item: PromptItem, pad_id: int, tried: Layout
) -> tuple[_Difference, int]:
    """Compare an item's first and last response in a row made long by copies of its responses; also its length.

    The copies are run in the tried layout only, so that the cost is that of one row of about ``ROW_TOKENS`` tokens (or
    of the item's own length) and of two responses with their prompts.
    """
    own = sum(map(len, item.responses))
    copies = item.responses * max(0, (ROW_TOKENS - item.n_tokens) // own)
    long = replace(item, responses=(item.responses[0], *copies, *item.responses[1:]))
    ends = replace(item, responses=(item.responses[0], item.responses[-1]))
    return _compare(model, [long], [ends], (0, len(long.responses) - 1), pad_id, tried), long.n_tokens


@torch.no_grad()
def _compare(
    model: nn.Module,
    items: Sequence[PromptItem],
    plain: Sequence[PromptItem],
    kept: Sequence[int],
    pad_id: int,
    tried: Layout,
) -> _Difference:
    """Run ``items`` in the tried layout, ``plain`` with one response per row; compare the responses ``kept`` of both.

    States are compared at the last block, unless the model has no single state per token there.
    """
    device = next(model.parameters()).device
    request: StateRequest | None = StateRequest((len(decoder_blocks(model)) - 1,))
    batches = [make_batch(plain, "concatenated", pad_id).to(device), make_batch(items, tried, pad_id).to(device)]
    was_training = model.training
    model.eval()
    try:
        try:
            b = _plain(model, batches[0], request)
        except StateShapeError:
            request = None
            b = _plain(model, batches[0], request)
        a = sequence_outputs(model, batches[1], request)
    except REFUSALS as error:
        return _Difference(float("inf"), None, one_line(error, 120))
    finally:
        model.train(was_training)
    index = torch.tensor(list(kept), device=device)
    logps = ((a.logps[index] - b.logps).abs() / b.n_tokens).max().item()
    if a.pooled is None or b.pooled is None:
        return _Difference(logps, None)
    return _Difference(logps, (a.pooled[:, index] - b.pooled).square().mean(-1).sqrt().max().item())


def _plain(model: nn.Module, batch: TokenBatch, request: StateRequest | None) -> SequenceOutputs:
    """Run a batch with one response a row. If that fails, the model cannot be run at all, whatever the layout."""
    try:
        return sequence_outputs(model, batch, request)
    except REFUSALS as error:
        if text_config(model)._attn_implementation == FLEX:
            raise UserError(
                f"flex_attention does not run this model: {one_line(error, 200)}; use model.attention=sdpa"
            ) from error
        raise UserError(f"{type(model).__name__} cannot be run on text alone: {one_line(error, 200)}") from error
