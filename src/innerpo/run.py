"""What the verbs train and eval do, top to bottom. READ THIS FIRST.

pairs -> tokens -> reference (cached) -> directions -> training -> scores -> table
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from innerpo.config.run import RunConfig
from innerpo.config.yaml import read_run_config
from innerpo.data.tokens import PairTokenizer
from innerpo.evaluation.score import PairScore
from innerpo.evaluation.sets import Column, load_columns, training_pairs
from innerpo.evaluation.suite import Suite, prepare_suite, score_policy, write_scores
from innerpo.evaluation.tables import Headline
from innerpo.files import cache_root
from innerpo.model.adapters import remove_adapter
from innerpo.model.base import Base
from innerpo.model.forward.layout import choose_layout
from innerpo.model.loading import load_base
from innerpo.training import artifacts
from innerpo.training.arguments import check_processes, training_arguments
from innerpo.training.card import model_card
from innerpo.training.prepare import Prepared, adapted, prepare
from innerpo.training.run_folder import check_run_dir, is_finished, run_folder
from innerpo.training.train import train_policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Where a run landed, its config, what was scored, its rows (base and policy) and its tables by scorer."""

    folder: Path
    config: RunConfig
    columns: tuple[Column, ...] = ()
    rows: tuple[PairScore, ...] = ()
    tables: dict[str, Headline] | None = None


def train(config: RunConfig, base: Base | None = None) -> Run:
    """Train one method on one data set with one seed, save the adapter, and score it beside its base.

    ``base`` is a base model that is loaded already; afterwards it is bit for bit what it was.
    """
    started = time.time()
    _check_before_loading(config)
    if is_finished(config):
        log.info(f"{config.run_dir} is finished: nothing to resume, scoring it again")
        return Run(config.run_dir, config) if config.eval.skip else evaluate(config.run_dir, config, base)
    known = training_pairs(config)
    columns = [] if config.eval.skip else load_columns(config, known)
    base = base or load_base(config.model, cache_root(config.data.cache_dir))
    prepared = prepare(config, base, known)
    suite = prepare_suite(columns, base, config, prepared.layout, prepared.inner_reward)
    with adapted(prepared, config) as (policy, method):
        prepared = replace(prepared, method=method)
        is_whole = _train_and_save(prepared, policy, config, started)
        if config.eval.skip or not is_whole or not PartialState().is_main_process:
            return Run(config.run_dir, config)
        rows = _all_rows(suite, policy, config, config.method_label, base.pad_id)
    tables = write_scores(config.run_dir, rows, columns, config)
    return Run(config.run_dir, config, tuple(columns), tuple(rows), tables)


def evaluate(folder: Path, config: RunConfig, base: Base | None = None) -> Run:
    """Score a saved run, or any peft adapter, beside its base model."""
    artifacts.check_adapter(folder)
    columns = load_columns(config)
    base = base or load_base(config.model, cache_root(config.data.cache_dir))
    inner = artifacts.load_directions(folder)
    tokens = PairTokenizer(base.tokenizer, config.data.max_prompt_tokens, config.data.max_response_tokens)
    layout = choose_layout(base.model, tokens.scoring_items(columns[0].pairs[:8]), base.pad_id, config.data.layout)
    log.info(f"layout: {layout.layout} ({layout.reason})")
    suite = prepare_suite(columns, base, config, layout, inner)
    label = folder.resolve().name if read_run_config(folder) is None else config.method_label
    policy = artifacts.load_policy(base, folder)
    try:
        rows = _all_rows(suite, policy, config, label, base.pad_id)
    finally:
        remove_adapter(base, policy)
    target = artifacts.scores_folder(folder, config)
    return Run(target, config, tuple(columns), tuple(rows), write_scores(target, rows, columns, config))


def _check_before_loading(config: RunConfig) -> None:
    """Refuse what cannot work (an unknown optimiser, a folder that holds another run) before anything is computed."""
    training_arguments(config)
    process = PartialState()  # one of several under `accelerate launch`; files are the main process's business
    check_processes(config)
    if process.is_main_process:
        check_run_dir(config)
    process.wait_for_everyone()


def _train_and_save(prepared: Prepared, policy: Any, config: RunConfig, started: float) -> bool:
    """Train the policy and write the run's folder; return False where the weights are sharded over devices."""
    data_hash = artifacts.hash_of_tokens(prepared.items)
    with run_folder(config, artifacts.inputs_hash(data_hash, prepared.base)) as checkpoint:
        if config.method.frozen:
            summary: dict[str, Any] = {"steps": 0, "train_seconds": 0.0}
        else:
            summary = train_policy(policy, prepared.method, prepared.pairs, config, checkpoint)
        weights = summary.pop("gathered", None)
        record = artifacts.run_record(config, len(prepared.items), data_hash, prepared.method, prepared.layout)
        record |= summary | {"seconds": time.time() - started}
        if PartialState().is_main_process:
            card = model_card(config, record)
            artifacts.save_run(config.run_dir, policy, prepared.base.tokenizer, prepared.method, record, card, weights)
            log.info(f"saved {config.run_dir}")
    if weights is not None:
        log.info(f"the weights are sharded over devices; score them in a process of their own: {config.run_dir}")
    return weights is None


def _all_rows(suite: Suite, policy: Any, config: RunConfig, label: str, pad_id: int) -> list[PairScore]:
    """Rows of base, policy and steered base; a frozen policy is the base, and is not run again."""
    if config.method.frozen:
        own: Sequence[PairScore] = [replace(row, model=label) for row in suite.base_rows]
    else:
        own = score_policy(suite, policy, label, pad_id)
    return [*suite.base_rows, *own, *suite.steered_rows]
