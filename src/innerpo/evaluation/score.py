"""Score a model on pairs: one pass gives every row; what they mean is decided later, in metrics.py."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.files import write_atomically
from innerpo.methods.inner_reward import InnerReward
from innerpo.model.forward.outputs import SequenceOutputs, StateRequest
from innerpo.model.forward.passes import collect


@dataclass(frozen=True)
class PairScore:
    """One model's outputs on one pair. Log-probs are sums over completion tokens, in nats.

    ``inner`` is r = sum_l a_l <w_l, s_l> / sigma_l; NaN where the run has no directions.
    """

    model: str
    column: str
    dataset: str
    split: str
    pair: str
    cluster: str
    chosen_logp: float
    rejected_logp: float
    chosen_tokens: int
    rejected_tokens: int
    chosen_characters: int
    rejected_characters: int
    chosen_inner: float
    rejected_inner: float


@torch.no_grad()
def score_items(
    model: Any,
    items: Sequence[PromptItem],
    layout: Layout,
    pad_id: int,
    *,
    batch_size: int,
    request: StateRequest | None,
    what: str,
) -> SequenceOutputs:
    """Return outputs on every response, in the items' order, each prompt run once with all its responses."""
    model.eval()
    return collect(model, items, layout, pad_id, batch_size=batch_size, request=request, what=f"scoring {what}")


def score_rows(
    items: Sequence[PromptItem],
    outputs: SequenceOutputs,
    inner: InnerReward | None,
    labels: dict[str, Any],
) -> list[PairScore]:
    """One row a pair. Raises UserError for a score that is not finite or a response without tokens."""
    inner_scores = None if inner is None or outputs.pooled is None else inner(outputs.pooled)
    rows: list[PairScore] = []
    start = 0
    for item in items:
        for chosen, rejected, pair_id in item.pairs:
            c, r = start + chosen, start + rejected
            values: dict[str, Any] = {
                "chosen_logp": float(outputs.logps[c]),
                "rejected_logp": float(outputs.logps[r]),
                "chosen_tokens": int(outputs.n_tokens[c]),
                "rejected_tokens": int(outputs.n_tokens[r]),
                "chosen_characters": item.characters[chosen],
                "rejected_characters": item.characters[rejected],
                "chosen_inner": float("nan") if inner_scores is None else float(inner_scores[c]),
                "rejected_inner": float("nan") if inner_scores is None else float(inner_scores[r]),
            }
            if min(values["chosen_tokens"], values["rejected_tokens"]) < 1:
                raise UserError(f"pair {pair_id} has a response without tokens; it cannot be scored")
            if not torch.isfinite(outputs.logps[[c, r]]).all():
                raise UserError(f"pair {pair_id} has a log-probability that is not finite")
            rows.append(PairScore(**labels, pair=pair_id, cluster=item.cluster, **values))
        start += len(item.responses)
    return rows


def write_rows(path: Path, rows: Iterable[PairScore]) -> None:
    """Write score rows to parquet or jsonl, by the path's suffix."""
    found = [asdict(r) for r in rows]
    if path.suffix == ".jsonl":
        lines = (json.dumps({k: None if v != v else v for k, v in row.items()}) + "\n" for row in found)
        write_atomically(path, lambda p: p.write_text("".join(lines)))
    else:
        write_atomically(path, lambda p: pq.write_table(pa.Table.from_pylist(found), p))


def read_rows(path: Path) -> list[PairScore]:
    """Read what ``write_rows`` wrote."""
    if path.suffix == ".jsonl":
        found = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        found = pq.read_table(path).to_pylist()
    return [PairScore(**{f.name: _known(row[f.name]) for f in fields(PairScore)}) for row in found]


def _known(value: Any) -> Any:
    """JSON writes NaN as null."""
    return float("nan") if value is None else value
