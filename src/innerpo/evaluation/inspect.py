"""`innerpo inspect RUN`: what an adapter did inside, block by block, on held-out pairs of its own data set.

Every block is read, not only the method's, and without its transform: the directions are the shared ones of the
untransformed reference states of the training pairs, so that runs of different methods can be laid side by side.
"""

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from rich.table import Table
from torch import Tensor

from innerpo.config.method import MethodConfig
from innerpo.config.run import RunConfig
from innerpo.data.batching.row_plan import Layout
from innerpo.data.pairs import BadRows, PreferencePair, choose_negatives, take_prompts
from innerpo.data.sources import load_pairs
from innerpo.data.tokens import PairTokenizer, PromptItem
from innerpo.errors import UserError
from innerpo.evaluation.sets import training_pairs
from innerpo.files import cache_root, write_atomically, write_text
from innerpo.methods.directions.estimate import estimate_directions
from innerpo.methods.records import Directions
from innerpo.methods.terms.drift import orthogonal_drift
from innerpo.model.base import Base, reference_mode
from innerpo.model.forward.blocks import decoder_blocks
from innerpo.model.forward.layout import choose_layout
from innerpo.model.forward.outputs import StateRequest, sequence_outputs
from innerpo.model.forward.passes import batches
from innerpo.model.layer_spec import resolve_layers
from innerpo.model.loading import load_base
from innerpo.model.reference import compute_reference
from innerpo.training import artifacts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockRow:
    """One block. ``along`` is the margin and ``across`` the drift of this block alone; means over the test pairs.

    ``cosine`` is between policy and reference pooled states, over both responses. ``accuracy_train`` is the direction's
    leave-one-out accuracy on the training pairs; ``accuracy_before`` and ``_after`` are those of the reference's and
    the policy's states on the test pairs. ``read`` says whether the run's method read this block.
    """

    block: int
    read: bool
    along: float
    across: float
    cosine: float
    accuracy_train: float
    accuracy_before: float
    accuracy_after: float


@dataclass(frozen=True)
class Inspection:
    """The rows, what they were measured on, and where they were written."""

    folder: Path
    dataset: str
    n_train: int
    n_test: int
    pool: str
    rows: tuple[BlockRow, ...]


def inspect_run(folder: Path, config: RunConfig, prompts: int = 64) -> Inspection:
    """Measure a run (or any peft adapter) against its base, and write inspect.json, .csv, .png and .svg."""
    if prompts < 1:
        raise UserError(f"--prompts must be at least 1, got {prompts}")
    artifacts.check_adapter(folder)
    dataset = config.eval.train_dataset or config.data.dataset
    data = replace(config.data, dataset=dataset)
    train = choose_negatives(training_pairs(replace(config, data=data)), data.negatives, data.seed)
    test = best_against_first_worse(load_pairs(dataset, "test", data, BadRows()), prompts, data.seed)

    base = load_base(config.model, cache_root(data.cache_dir))
    tokens = PairTokenizer(base.tokenizer, data.max_prompt_tokens, data.max_response_tokens)
    train_items, test_items = tokens.training_items(train), tokens.training_items(test)
    if not train_items or not test_items:
        raise UserError(f"{dataset} has no pair left to inspect in its {'test' if train_items else 'train'} split")
    layout = choose_layout(base.model, train_items, base.pad_id, data.layout).layout
    n_blocks = len(decoder_blocks(base.model))
    request = StateRequest(tuple(range(n_blocks)), config.method.pool, site=config.method.site)
    reference = compute_reference(
        base,
        train_items,
        layout,
        request,
        batch_size=data.batch_size,
        cache_dir=cache_root(data.cache_dir),
        what=f"{dataset} (train), all blocks",
    )
    assert reference.pooled is not None
    assert reference.token_spread is not None
    d = reference.pooled[:, 0::2] - reference.pooled[:, 1::2]
    directions = estimate_directions(d, reference.token_spread, MethodConfig(), config.training.seed)

    policy = artifacts.load_policy(base, folder)
    found = _measure(policy, base, test_items, layout, replace(request, token_states=True), directions, data.batch_size)
    read = resolve_layers(config.method.layers, n_blocks) if config.method.reads_states else ()
    columns = found | {"accuracy_train": directions.accuracy}
    rows = tuple(
        BlockRow(block, block in read, **{name: float(values[block]) for name, values in columns.items()})
        for block in range(n_blocks)
    )
    target = artifacts.scores_folder(folder, config)
    inspection = Inspection(target, dataset, len(train_items), len(test_items), config.method.pool, rows)
    if config.method.frozen:
        log.info("this run trained nothing: its policy is its reference")
    write_inspection(inspection)
    log.info(f"written to {target}: inspect.json, .csv, .png and .svg")
    return inspection


def best_against_first_worse(pairs: Sequence[PreferencePair], prompts: int, seed: int) -> list[PreferencePair]:
    """One pair a prompt, the first listed, of a seeded choice of prompts."""
    first: dict[str, PreferencePair] = {}
    for pair in take_prompts(pairs, prompts, seed):
        first.setdefault(pair.cluster, pair)
    return list(first.values())


@torch.no_grad()
def _measure(
    policy: Any,
    base: Base,
    items: Sequence[PromptItem],
    layout: Layout,
    request: StateRequest,
    directions: Directions,
    batch_size: int,
) -> dict[str, Float[Tensor, " layer"]]:
    """Run policy and reference over the same batches; return the means of every measure by block."""
    device = next(policy.parameters()).device
    known = directions.to(device)
    # A fully fine-tuned policy has no adapter to switch off; its reference is the base, loaded beside it.
    reference_model = policy if hasattr(policy, "disable_adapter") else base.model
    policy.eval()
    parts: dict[str, list[Tensor]] = {}
    what = "states of policy and reference"
    for _, batch in batches(items, layout, base.pad_id, batch_size, device, what):
        with reference_mode(reference_model):
            before = sequence_outputs(reference_model, batch, request)
        after = sequence_outputs(policy, batch, request)
        assert before.pooled is not None
        assert after.pooled is not None
        assert before.token_states is not None
        assert after.token_states is not None
        d, delta = (p[:, 0::2] - p[:, 1::2] for p in (before.pooled, after.pooled))
        cosine = F.cosine_similarity(after.pooled, before.pooled, dim=-1)
        batch_parts = {
            "along": along(delta, d, known),
            "across": across(after.token_states - before.token_states, batch.sequence, batch.n_tokens, known),
            "cosine": (cosine[:, 0::2] + cosine[:, 1::2]) / 2.0,
            "accuracy_before": right(d, known),
            "accuracy_after": right(delta, known),
        }
        for name, values in batch_parts.items():
            parts.setdefault(name, []).append(values.cpu())
    return {name: torch.cat(values, 1).mean(1) for name, values in parts.items()}


def along(
    delta: Float[Tensor, "layer pair hidden"], d: Float[Tensor, "layer pair hidden"], directions: Directions
) -> Float[Tensor, "layer pair"]:
    """<delta - d, w_l> / sigma_l: the margin of each block alone (methods/losses/inner.py)."""
    return ((delta - d) * directions.w[:, None]).sum(-1) / directions.scale[:, None]


def across(moved: Tensor, sequence: Tensor, n_tokens: Tensor, directions: Directions) -> Float[Tensor, "layer pair"]:
    """The drift of each block alone (methods/losses/drift.py)."""
    one = torch.ones(1, device=moved.device)
    by_block = []
    for block in range(len(moved)):
        w = directions.w[block : block + 1, None].expand(-1, len(n_tokens) // 2, -1)
        spread = directions.token_spread[block : block + 1]
        by_block.append(orthogonal_drift(moved[block : block + 1], w, sequence, n_tokens, spread, one))
    return torch.stack(by_block)


def right(d: Float[Tensor, "layer pair hidden"], directions: Directions) -> Float[Tensor, "layer pair"]:
    """1 where the chosen response lies further along the direction, 0 where the rejected one does, 1/2 for a tie."""
    return ((d * directions.w[:, None]).sum(-1).sign() + 1.0) / 2.0


# -- files and tables ------------------------------------------------------------------------------------------------


def write_inspection(inspection: Inspection) -> None:
    """Write the rows as json and csv, and the plot as png and svg."""
    folder, rows = inspection.folder, [asdict(row) for row in inspection.rows]
    plain = {k: v for k, v in vars(inspection).items() if k not in ("folder", "rows")} | {"blocks": rows}
    write_text(folder / "inspect.json", json.dumps(plain, indent=2) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(BlockRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "inspect.csv", text.getvalue())
    drawn = plot(inspection)
    write_atomically(folder / "inspect.svg", lambda p: drawn.save(str(p), format="svg"))
    write_atomically(folder / "inspect.png", lambda p: drawn.save(str(p), format="png", scale_factor=2))


def plot(inspection: Inspection) -> Any:
    """Four panels over the blocks: along, across, cosine, accuracy before and after."""
    import altair as alt

    panels: dict[str, dict[str, str]] = {
        "along the direction (reference s.d.)": {"policy": "along"},
        "across it (drift)": {"policy": "across"},
        "cosine, policy and reference": {"policy": "cosine"},
        "accuracy of the direction": {"reference": "accuracy_before", "policy": "accuracy_after"},
    }

    def panel(title: str, lines: dict[str, str]) -> Any:
        values = [
            {"block": row.block, "value": getattr(row, name), "model": model}
            for model, name in lines.items()
            for row in inspection.rows
        ]
        color = alt.Color("model:N", scale=alt.Scale(domain=["reference", "policy"], range=["#8c8c8c", "#2563a8"]))
        chart = alt.Chart(alt.Data(values=values), width=300, height=170).mark_line(point=True)
        x = alt.X("block:Q", axis=alt.Axis(tickMinStep=1, format="d"))
        return chart.encode(x=x, y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)), color=color)

    drawn = [panel(title, lines) for title, lines in panels.items()]
    return alt.vconcat(alt.hconcat(*drawn[:2]), alt.hconcat(*drawn[2:])).properties(title=_title(inspection))


def as_rich(inspection: Inspection) -> Table:
    """Return the table of blocks; a star marks those that the method read."""
    shown = Table(title=_title(inspection), title_justify="left")
    for name in ("block", "along", "across", "cosine", "accuracy (train)", "accuracy before", "accuracy after"):
        shown.add_column(name, justify="right")
    for row in inspection.rows:
        accuracies = (row.accuracy_train, row.accuracy_before, row.accuracy_after)
        shown.add_row(
            f"{'*' if row.read else ''}{row.block}",
            f"{row.along:+.3f}",
            f"{row.across:.4f}",
            f"{row.cosine:.4f}",
            *(f"{a:.3f}" for a in accuracies),
        )
    return shown


def _title(inspection: Inspection) -> str:
    return (
        f"{inspection.folder.resolve().name}: policy against reference on {inspection.n_test} test pairs of "
        f"{inspection.dataset}, directions of {inspection.n_train} training pairs"
    )
