"""Loss and metrics of an evaluation set while training: exact means over its pairs, whatever batches and processes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from innerpo.data.batching.order import length_batches
from innerpo.errors import UserError, near_matches
from innerpo.methods.method import LossOutput
from innerpo.training.collate import PairBatch, PairCollator


def mean_metrics(
    loss_on: Callable[[PairBatch], LossOutput], pairs: PairCollator, batch_size: int, accelerator: Any
) -> dict[str, float]:
    """Return the mean over all pairs of the loss (``loss``), of every term (``loss/<term>``) and of every metric.

    Processes take turns with the batches. All of them run the model equally often, as sharded weights need it; a
    batch that fills up the last turn is not counted.
    """
    batches = length_batches([item.n_tokens for item in pairs.items], batch_size)
    sums: dict[str, list[Tensor]] = {}
    for turn in range(0, len(batches), accelerator.num_processes):
        index = turn + accelerator.process_index
        counted = index < len(batches)
        for batch in pairs(batches[index if counted else 0])["micro_batches"]:
            for name, value in values_of(loss_on(batch)).items():
                sums.setdefault(name, []).append(value.float().sum() * counted)
    totals = torch.stack([torch.stack(parts).sum() for parts in sums.values()])
    means = accelerator.reduce(totals, "sum") / len(pairs.items)
    return dict(zip(sums, means.tolist(), strict=True))


def values_of(out: LossOutput) -> dict[str, Tensor]:
    """Return loss, terms and metrics of a batch by the names that logs give them, one value per pair."""
    return {"loss": out.per_pair, **{f"loss/{name}": value for name, value in out.terms.items()}, **out.metrics}


Sets = PairCollator | Mapping[str, PairCollator] | None


def sets_by_name(sets: Sets) -> dict[str, PairCollator]:
    """Return evaluation sets by name; a single one has the empty name."""
    return {"": sets} if isinstance(sets, PairCollator) else dict(sets or {})


def chosen_sets(own: Mapping[str, PairCollator], wanted: Sets | str) -> dict[str, PairCollator]:
    """Return what to evaluate: the sets given, else one of the trainer's own by its name, else all of those."""
    if isinstance(wanted, str):
        if wanted not in own:
            raise UserError(f"there is no evaluation set {wanted!r}{near_matches(wanted, own)}")
        return {"": own[wanted]}
    found = sets_by_name(own if wanted is None else wanted)
    if not found:
        raise UserError("there is nothing to evaluate: the trainer was given no evaluation set")
    return found
