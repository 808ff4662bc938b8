"""The largest micro-batch of a run, found by its own sampling and batching, without a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from innerpo.config.run import RunConfig
from innerpo.data.batching.order import by_prompt, token_batches
from innerpo.data.batching.row_plan import Layout, plan_rows
from innerpo.data.tokens import PromptItem
from innerpo.training.companions import Companions, rows_with
from innerpo.training.prepare import pairs_per_step, planned_steps
from innerpo.training.sampler import first_steps

MOST_STEPS = 500
"""Steps that are looked at; beyond them a larger micro-batch is rare."""
CANDIDATES = 8
"""Micro-batches with most cells of which the rows are planned, with prefixes shared."""


@dataclass(frozen=True)
class Group:
    """The items of a micro-batch, those of its companions by kind, and the cells that all take.

    ``several``: some batch of the run is done in more than one micro-batch.
    """

    items: tuple[PromptItem, ...]
    companions: tuple[tuple[str, tuple[PromptItem, ...]], ...]
    tokens: int
    several: bool = False


def largest_group(
    config: RunConfig,
    items: Sequence[PromptItem],
    companions: Mapping[str, Companions],
    layout: Layout,
    micro_batch_tokens: int,
) -> Group:
    """Return the micro-batch with most cells among the run's first steps."""
    size, seed = config.data.batch_size, config.training.seed
    steps = min(planned_steps(config, len(items)), MOST_STEPS)
    parts: list[tuple[int, list[int]]] = []
    several = False
    for step in first_steps(len(items), pairs_per_step(config), seed, steps):
        for start in range(0, len(step), size):
            batch = step[start : start + size]
            rows = [rows_with(items[i], i, companions, layout) for i in batch]
            own = list(token_batches(rows, micro_batch_tokens, layout))
            several = several or len(own) > 1
            for part in own:
                cells = sum(rows[k][0] for k in part) * max(rows[k][1] for k in part)
                parts.append((cells, [batch[k] for k in part]))
    parts.sort(key=lambda found: -found[0])
    groups = [_group(part, items, companions, layout) for _, part in parts[:CANDIDATES]]
    return replace(max(groups, key=lambda group: group.tokens), several=several)


def _group(
    part: Sequence[int], items: Sequence[PromptItem], companions: Mapping[str, Companions], layout: Layout
) -> Group:
    order = by_prompt(items, part)
    own = tuple(items[i] for i in order)
    others = tuple((kind, tuple(c.item(i) for i in order)) for kind, c in companions.items())
    return Group(own, others, sum(_cells(found, layout) for found in (own, *(found for _, found in others))))


def _cells(items: Sequence[PromptItem], layout: Layout) -> int:
    rows = plan_rows(items, layout)
    return len(rows) * max(sum(group.n_tokens for group in row) for row in rows)
