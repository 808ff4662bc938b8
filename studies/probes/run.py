"""Measure the probe table: ``python -m studies.probes.run --out=outputs/probes``. Goes on where it stopped.

One pass of the base model over each data set, and over the training pairs behind other prompts (kept in OUT/states),
then every reader; a file of outcomes per source.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import torch
import tyro

from innerpo.config.run import RunConfig
from innerpo.data.companions import companions
from innerpo.data.divergence import with_divergence_of
from innerpo.data.pairs import take_prompts
from innerpo.data.tokens import PromptItem
from innerpo.data.training_pairs import load_split
from innerpo.evaluation.sets import PROMPT_SEED
from innerpo.files import cache_root, write_atomically
from innerpo.methods.heads import head_count
from innerpo.model.base import Base
from innerpo.model.layer_spec import resolve_layers
from innerpo.model.loading import load_base
from innerpo.training.prepare import training_items
from studies.probes.readers import Pairs, outcomes, pairs_of, plain
from studies.probes.states import measure

log = logging.getLogger(__name__)

SHIFTS: dict[str, tuple[str, ...]] = {
    "arc_easy": ("arc_hard",),
    "truthful_qa": ("alpaca_mmlu",),
    "alpaca_low_quality": ("alpaca_high_quality",),
    "alpaca_mmlu": ("wrong_arc", "ranking_logic"),
}
"""The development shifts of design, section 10: source -> targets. All others stay unseen until a final table."""

DEPTHS = "0.2,0.4,0.6,0.8,1.0"


@dataclass(frozen=True)
class Options:
    """What is measured, and where it is kept."""

    out: Path = Path("outputs/probes")
    """Folder for states and outcomes."""
    sources: tuple[str, ...] = tuple(SHIFTS)
    """Sources of the development shifts."""
    pairs: int = 432
    """Most training prompts of a source, one pair each."""
    prompts: int = 150
    """Prompts of each held-out set and target, with all their pairs."""
    base_model: str = "smollm2-135m"
    """Base model."""
    dtype: str = "float32"
    """Type of its weights; the stored table's."""
    batch_size: int = 8
    """Prompts in a pass."""
    genies_dir: Path | None = None
    """Folder with GENIES data."""


def run(options: Options, shifts: dict[str, tuple[str, ...]] = SHIFTS) -> list[Path]:
    """Measure every source that has no file of outcomes yet; return the files."""
    config = RunConfig()
    data = replace(config.data, genies_dir=options.genies_dir, max_train_prompts=options.pairs)
    model = replace(config.model, base_model=options.base_model, dtype=options.dtype)  # type: ignore[arg-type]  # the loader refuses others
    config = replace(config, data=data, model=model)
    wanted = {source: options.out / f"{source.replace(':', '-')}.parquet" for source in options.sources}
    missing = [source for source, path in wanted.items() if not path.is_file()]
    base = load_base(config.model, cache_root(None)) if missing else None
    for source in missing:
        assert base is not None
        log.info(f"{source}: {', '.join(shifts[source])}")
        frame = measure_source(replace(config, data=replace(data, dataset=source)), shifts[source], base, options)
        write_atomically(wanted[source], frame.write_parquet)
    return list(wanted.values())


def measure_source(config: RunConfig, targets: Sequence[str], base: Base, options: Options) -> pl.DataFrame:
    """Return a row per pair of train, test and the targets, with a column per reader: twice its outcome (0, 1, 2)."""
    source, blocks = config.data.dataset, resolve_layers(DEPTHS, base.n_blocks)

    def states(items: Sequence[PromptItem]) -> Pairs:
        return pairs_of(measure(base, items, blocks, options.out / "states", options.batch_size))

    items = _train_items(config, base)
    train, mismatched = states(items), states(companions(items, "mismatch", config.data.seed))
    held = {"test": source, **{target: target for target in targets}}
    sets = {name: states(_held_items(dataset, config, base, options.prompts)) for name, dataset in held.items()}
    every = {"train": train, **sets}
    columns: dict[str, dict[str, torch.Tensor]] = {name: dict(plain(pairs)) for name, pairs in every.items()}
    for reader, found in outcomes(train, mismatched, sets, blocks, head_count(base.model)):
        for name, values in found.items():
            columns[name][reader] = values
    log.info(f"{source}: {len(columns['train'])} readers")
    return pl.concat([_frame(source, name, pairs, columns[name]) for name, pairs in every.items()])


def _train_items(config: RunConfig, base: Base) -> list[PromptItem]:
    """One pair of each training prompt; their divergence is that of the whole prompt."""
    data, method = config.data, replace(config.method, pool="first_divergence")
    pairs = take_prompts(load_split(data.dataset, "train", data), data.max_train_prompts, data.seed)
    return training_items(replace(config, method=method), base, pairs)


def _held_items(dataset: str, config: RunConfig, base: Base, prompts: int) -> list[PromptItem]:
    """All pairs of a fixed choice of test prompts: the choice that ``innerpo eval`` makes."""
    data = replace(config.data, dataset=dataset)
    pairs = take_prompts(load_split(dataset, "test", replace(data, seed=PROMPT_SEED)), prompts, PROMPT_SEED)
    items = base.pair_tokenizer(data).scoring_items(pairs)
    return with_divergence_of(items, items)


def _frame(source: str, name: str, pairs: Pairs, found: dict[str, torch.Tensor]) -> pl.DataFrame:
    about = {"source": [source] * len(pairs.ids), "set": name, "pair": pairs.ids, "prompt": pairs.prompts}
    halves = {reader: (2 * values).to(torch.uint8).tolist() for reader, values in found.items()}
    return pl.DataFrame(about | halves, schema_overrides=dict.fromkeys(halves, pl.UInt8))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(tyro.cli(Options, description=__doc__))
