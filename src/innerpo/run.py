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

from innerpo.config.labels import label_of_folder
from innerpo.config.run import RunConfig
from innerpo.config.yaml import check_training_set, read_run_config
from innerpo.data.tokens import hash_of_items
from innerpo.data.training_pairs import training_pairs
from innerpo.evaluation.applied import check_tokenizer
from innerpo.evaluation.facts import Scores, combine
from innerpo.evaluation.headline_files import scored_before, scores_folder, write_scores
from innerpo.evaluation.prepared import PreparedScoring, tokenise_sets, with_names
from innerpo.evaluation.scoring_run import parts_of, prepare_scoring, score_other_base, score_run
from innerpo.evaluation.sets import EvaluationSet, load_sets, texts_of
from innerpo.evaluation.tables import Headline
from innerpo.files import cache_root
from innerpo.model.adapters import check_bare
from innerpo.model.base import Base
from innerpo.model.loading import check_precision, load_base
from innerpo.model.trunk_check import first_block_of_adapter
from innerpo.training import artifacts
from innerpo.training.arguments import check_processes, training_arguments
from innerpo.training.card import model_card
from innerpo.training.directions_file import load_directions
from innerpo.training.estimate import log_estimate
from innerpo.training.prepare import Prepared, adapted, first_adapted_block, prepare_items, training_items
from innerpo.training.record import check_base, inputs_hash, run_record
from innerpo.training.run_folder import check_run_dir, is_finished, run_folder
from innerpo.training.state import recorded_state
from innerpo.training.train import train_policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What training or evaluation returns: where the run is, and its scores."""

    folder: Path
    """Folder of the run, or the one beneath it that holds the scores of other sets."""
    config: RunConfig
    """The configuration that was run."""
    sets: tuple[EvaluationSet, ...] = ()
    """The evaluation sets; empty where nothing was scored."""
    scores: Scores | None = None
    """Facts of every response, of base and policy (evaluation/facts.py); None where nothing was scored."""
    tables: dict[str, Headline] | None = None
    """The headline table of each scorer, by its name; None where nothing was scored."""
    faults: tuple[str, ...] = ()
    """Sets that somebody asked for and that could not be scored, a line each."""


def train(config: RunConfig, base: Base | None = None) -> Run:
    """Train one method on one data set with one seed, save the adapter, and score it beside its base.

    ``base`` is a base model that is loaded already; afterwards it is bit for bit what it was.
    """
    started = time.time()
    check_before_loading(config)
    if is_finished(config):
        log.info(f"{config.run_dir} is finished: nothing to resume, scoring it again")
        if config.eval.skip:
            return Run(config.run_dir, config)
        return evaluate(config.run_dir, config, base, strict=True)
    known = training_pairs(config)
    sets = [] if config.eval.skip else load_sets(config, known)
    base = base or load_base(config.model, cache_root(config.data.cache_dir))
    check_bare(base)
    check_precision(config.model, base)
    items, scored = training_items(config, base, known), tokenise_sets(sets, base, config)
    log_estimate(config, base, items, with_names(sets, scored))
    prepared = prepare_items(config, base, items)
    first = first_adapted_block(config, base.n_blocks)
    scoring = prepare_scoring(sets, base, config, prepared.method.inner_reward, scored, first)
    other = _score_other_base(sets, scoring, config, base)
    with adapted(prepared, config) as (policy, method):
        prepared = replace(prepared, method=method)
        is_whole = _train_and_save(prepared, policy, config, started)
        if config.eval.skip or not is_whole or not PartialState().is_main_process:
            return Run(config.run_dir, config)
        parts = parts_of(config.run_dir, base, config)
        with recorded_state(config.run_dir, "scoring"):
            scores = score_run(scoring, policy, base, config.method_label, config.eval, parts)
    scores = combine([scores, *other])
    found = scoring.sets  # with a note in those that the cut left without pairs
    return Run(config.run_dir, config, tuple(found), scores, write_scores(config.run_dir, scores, found, config))


def evaluate(folder: Path, config: RunConfig, base: Base | None = None, strict: bool = False) -> Run:
    """Score a saved run, or any peft adapter, beside its base model.

    What was scored before, at any strength, is not computed again. Raises UserError where base or tokenizer are not
    those that the run was trained with, where the adapter is not applied, or, if ``strict``, where a set that the
    config names cannot be had (else it has a note, and is among the faults).
    """
    artifacts.check_adapter(folder)
    check_training_set(folder, config.eval.train_dataset)
    sets = load_sets(config, strict=strict, own=read_run_config(folder))
    base = base or load_base(config.model, cache_root(config.data.cache_dir))
    check_bare(base)
    check_base(folder, base)
    check_tokenizer(folder, base, texts_of(sets))
    first = first_block_of_adapter(folder, base)
    scoring = prepare_scoring(sets, base, config, load_directions(folder), adapted=first)
    other, target = _score_other_base(sets, scoring, config, base), scores_folder(folder, config)
    if not PartialState().is_main_process:
        return Run(target, config)
    label = label_of_folder(folder, config)
    with artifacts.loaded_policy(base, folder) as policy, recorded_state(target, "scoring"):
        parts = parts_of(folder, base, config)
        scores = score_run(scoring, policy, base, label, config.eval, parts, scored_before(target))
    scores = combine([scores, *other])
    found = scoring.sets
    tables, faults = write_scores(target, scores, found, config), tuple(s.note for s in found if s.fault)
    return Run(target, config, tuple(found), scores, tables, faults)


def check_before_loading(config: RunConfig) -> None:
    """Refuse what cannot work (an unknown optimiser, a folder that holds another run) before anything is computed."""
    config.method.check_trained()
    training_arguments(config)
    process = PartialState()  # one of several under `accelerate launch`; files are the main process's business
    check_processes(config)
    if process.is_main_process:
        check_run_dir(config)
    process.wait_for_everyone()


def _train_and_save(prepared: Prepared, policy: Any, config: RunConfig, started: float) -> bool:
    """Train the policy and write the run's folder; return False where the weights are sharded over devices."""
    data_hash, is_main = hash_of_items(prepared.items), PartialState().is_main_process
    with (
        run_folder(config, inputs_hash(data_hash, prepared.base, PartialState().num_processes)) as checkpoint,
        recorded_state(config.run_dir, "training", write=is_main),
    ):
        if config.method.frozen:
            summary: dict[str, Any] = {"steps": 0, "train_seconds": 0.0}
        else:
            summary = train_policy(policy, prepared.method, prepared.pairs, config, checkpoint)
        weights = summary.pop("gathered", None)
        record = run_record(config, prepared, data_hash)
        record |= summary | {"seconds": time.time() - started}
        if is_main:
            card = model_card(config, record)
            artifacts.save_run(config.run_dir, policy, prepared.base.tokenizer, prepared.method, record, card, weights)
            log.info(f"saved {config.run_dir}")
    if weights is not None:
        log.info(f"the weights are sharded over devices; score them in a process of their own: {config.run_dir}")
    return weights is None


def _score_other_base(
    sets: Sequence[EvaluationSet], scoring: PreparedScoring, config: RunConfig, base: Base
) -> list[Scores]:
    """Score ``eval.ref_model``, a base model to compare with, where the config names one; by all processes, early."""
    name = config.eval.ref_model
    if name is None or name == base.name or config.eval.skip:
        return []
    other = load_base(replace(config.model, base_model=name, revision=None), cache_root(config.data.cache_dir))
    return [score_other_base(sets, scoring, other, config)]
