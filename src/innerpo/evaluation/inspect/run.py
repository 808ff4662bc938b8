"""Measure a run against its base, block by block.

Every block is read, whether the method reads it or not, and without the method's transform. The directions are the
shared ones of the reference's states of the training pairs. So tables of different methods can be compared.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from innerpo.config.method import MethodConfig
from innerpo.config.run import RunConfig
from innerpo.config.yaml import check_training_set
from innerpo.data.divergence import with_divergence_of
from innerpo.data.pairs import PreferencePair, take_prompts
from innerpo.data.sources import load_pairs
from innerpo.data.training_pairs import training_pairs
from innerpo.errors import UserError
from innerpo.evaluation.headline_files import scores_folder
from innerpo.evaluation.inspect.measure import measure
from innerpo.evaluation.inspect.records import BlockRow, Inspection
from innerpo.evaluation.inspect.report import write_inspection
from innerpo.evaluation.sets import PROMPT_SEED
from innerpo.files import cache_root
from innerpo.model.adapters import check_bare
from innerpo.model.base import Base
from innerpo.model.layer_spec import resolve_layers
from innerpo.model.loading import load_base
from innerpo.training import artifacts
from innerpo.training.prepare import prepare
from innerpo.training.record import check_base

log = logging.getLogger(__name__)


def inspect_run(folder: Path, config: RunConfig, prompts: int = 64, base: Base | None = None) -> Inspection:
    """Measure a run (or any peft adapter) against its base on ``prompts`` test prompts, and write the files.

    Raises UserError where the folder holds no adapter or a split has no pair left.
    """
    if prompts < 1:
        raise UserError(f"prompts must be at least 1, got {prompts}")
    artifacts.check_adapter(folder)
    check_training_set(folder, config.eval.train_dataset)
    dataset = config.eval.train_dataset or config.data.dataset
    data = replace(config.data, dataset=dataset, shuffled_labels=0.0, shuffled_prompts=False)
    every_block = replace(config, data=data, method=_shared_directions(config.method))
    known = training_pairs(every_block)
    loaded = load_pairs(dataset, "test", replace(data, seed=PROMPT_SEED))
    test = best_against_first_worse(loaded, prompts, PROMPT_SEED)

    base = base or load_base(config.model, cache_root(data.cache_dir))
    check_bare(base)
    check_base(folder, base)
    n_blocks = base.n_blocks
    test_items = base.pair_tokenizer(data).training_items(test)
    if config.method.pool == "first_divergence":  # among all responses of a prompt, as in training
        responses = [pair for pair in loaded if pair.cluster in {p.cluster for p in test}]
        test_items = with_divergence_of(test_items, base.pair_tokenizer(data).scoring_items(responses))
    if not test_items:
        raise UserError(f"{dataset} has no pair left to inspect in its test split")
    prepared = prepare(every_block, base, known)
    directions, request = prepared.method.directions, prepared.method.request
    assert directions is not None
    assert request is not None
    request = replace(request, token_states=True)
    with artifacts.loaded_policy(base, folder) as policy:
        found = measure(policy, base, test_items, prepared.layout.layout, request, directions, data.batch_size)
    read = resolve_layers(config.method.layers, n_blocks) if config.method.reads_states else ()
    columns = found | {"accuracy_train": directions.accuracy}
    rows = tuple(
        BlockRow(block, block in read, **{name: float(values[block]) for name, values in columns.items()})
        for block in range(n_blocks)
    )
    target = scores_folder(folder, config)
    inspection = Inspection(target, dataset, len(prepared.items), len(test_items), config.method.pool, rows)
    if config.method.frozen:
        log.info("this run trained nothing: its policy is its reference")
    write_inspection(inspection)
    log.info(f"written to {target}: inspect.json, .csv, .png and .svg")
    return inspection


def _shared_directions(method: MethodConfig) -> MethodConfig:
    """Return a method that reads every block, untransformed, where and how the run's method reads its own."""
    return MethodConfig(layers="range(0.0,1.0),-1", output="none", gamma=0.0, pool=method.pool, site=method.site)


def best_against_first_worse(pairs: Sequence[PreferencePair], prompts: int, seed: int) -> list[PreferencePair]:
    """Return the first listed pair of each prompt, for a seeded choice of ``prompts`` prompts."""
    first: dict[str, PreferencePair] = {}
    for pair in take_prompts(pairs, prompts, seed):
        first.setdefault(pair.cluster, pair)
    return list(first.values())
