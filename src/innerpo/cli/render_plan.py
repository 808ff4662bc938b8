"""What a run would do, for a terminal: sizes, lengths as bars, memory, time."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from innerpo.cli.console import gigabytes
from innerpo.data.lengths import Lengths
from innerpo.errors import mark_fields
from innerpo.plan import Plan
from innerpo.training.estimate import duration

BAR = 40
"""Characters of the longest bar."""


def as_rich(plan: Plan) -> RenderableType:
    """Return a plan as something that rich prints."""
    lines = [*_run(plan), *(line for found in plan.lengths for line in _histogram(found))]
    notes = [f"note: {mark_fields(note, '--')}" for note in plan.notes]
    after = [*_time(plan), *notes, "dry run: nothing was trained, and nothing was written"]
    return Group(*map(Text, lines), _memory(plan), *map(Text, [*_fit(plan), *after]))


def _run(plan: Plan) -> Iterator[str]:
    training = plan.config.training
    yield f"run: {plan.folder}"
    trained = f"{plan.memory.trained / 1e6:.1f}M trained" if plan.memory.trained else "none trained"
    yield f"model: {plan.config.model.base_model}, {plan.n_parameters / 1e6:.0f}M parameters, {trained}"
    if plan.layers:
        yield f"layers: {', '.join(map(str, plan.layers))} of 0 to {plan.n_blocks - 1}"
    by = f"max_steps={training.max_steps}" if training.max_steps else f"epochs={training.epochs:g}"
    seen = f", {plan.n_seen} of them seen" if plan.n_seen < plan.n_pairs else ""
    pairs = f"{plan.n_pairs} pairs of {plan.config.data.dataset}{seen}"
    yield f"steps: {plan.steps} of {plan.pairs_per_step} pairs ({by}, {pairs})"
    for line in plan.sets:
        yield f"scored: {line}"


def _histogram(found: Lengths) -> Iterator[str]:
    yield ""
    yield f"{found.what} tokens of the training pairs: median {found.middle:g}, longest {found.longest}"
    most, width = max(found.counts), len(str(found.edges[-1]))
    for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
        over = "  longer than the limit" if low > found.limit else ""
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        yield f"  {low:>{width}} to {high - 1:<{width}} {bar} {count}{over}"
    side = "left" if found.what == "prompt" else "right"
    if found.n_cut:
        yield f"  cut to {found.limit} tokens on the {side}: {found.n_cut} of {found.n}, which lose {found.lost} tokens"
    else:
        yield f"  cut to {found.limit} tokens: none"


def _memory(plan: Plan) -> RenderableType:
    m = plan.memory
    table = Table(title=f"memory on {m.device}", title_justify="left", show_header=False)
    table.add_column("part")
    table.add_column("size", justify="right")
    checkpointed = ", blocks recomputed" if plan.config.training.gradient_checkpointing else ""
    parts = {
        "weights": m.weights,
        "adapter" if plan.config.model.lora_r else "copy that is trained": m.adapter,
        "gradients": m.gradients,
        "optimiser": m.optimiser,
        f"activations of a step ({m.tokens} tokens in the largest micro-batch{checkpointed})": m.step,
        "training, all of these": m.training,
        "a pass of the reference, beside the weights": m.reference,
        "a scoring pass, beside the weights": m.scoring,
        "reference cache, in the process": m.kept,
        "libraries, in the process": m.libraries,
    }
    for name, size in parts.items():
        table.add_row(name, gigabytes(size))
    return table


def _fit(plan: Plan) -> Iterator[str]:
    m = plan.memory
    if m.device == "cpu":
        needed, where = m.in_process, "the process, allocator included"
    else:
        needed, where = m.on_device, f"{m.device}, and {gigabytes(m.in_process)} in the process"
    yield f"peak: {gigabytes(needed)} in {where}"
    if plan.available and needed > plan.available:
        yield (
            f"warning: only {gigabytes(plan.available)} are free; less memory: --data.micro_batch_tokens, "
            "--training.gradient_checkpointing, --eval.batch_size"
        )


def _time(plan: Plan) -> Iterator[str]:
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in plan.seconds.items() if seconds)
    device = plan.memory.device
    yield f"time on this machine's {device}: about {parts} (from a timed matrix product; what is cached costs nothing)"
