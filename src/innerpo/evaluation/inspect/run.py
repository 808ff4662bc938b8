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
from innerpo.data.pairs import BadRows, PreferencePair, choose_negatives, take_prompts
from innerpo.data.sources import load_pairs
from innerpo.data.tokens import PairTokenizer
from innerpo.data.training_pairs import training_pairs
from innerpo.errors import UserError
from innerpo.evaluation.inspect.measure import measure
from innerpo.evaluation.inspect.records import BlockRow, Inspection
from innerpo.evaluation.inspect.report import write_inspection
from innerpo.files import cache_root
from innerpo.methods.directions.estimate import estimate_directions
from innerpo.model.forward.blocks import decoder_blocks
from innerpo.model.forward.layout import choose_layout
from innerpo.model.forward.outputs import StateRequest
from innerpo.model.layer_spec import resolve_layers
from innerpo.model.loading import load_base
from innerpo.model.reference import compute_reference
from innerpo.training import artifacts

log = logging.getLogger(__name__)


def inspect_run(folder: Path, config: RunConfig, prompts: int = 64) -> Inspection:
    """Measure a run (or any peft adapter) against its base on ``prompts`` test prompts, and write the files.

    Raises UserError where the folder holds no adapter or a split has no pair left.
    """
    if prompts < 1:
        raise UserError(f"prompts must be at least 1, got {prompts}")
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
    found = measure(policy, base, test_items, layout, replace(request, tokens=True), directions, data.batch_size)
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
    """Return the first listed pair of each prompt, for a seeded choice of ``prompts`` prompts."""
    first: dict[str, PreferencePair] = {}
    for pair in take_prompts(pairs, prompts, seed):
        first.setdefault(pair.cluster, pair)
    return list(first.values())
