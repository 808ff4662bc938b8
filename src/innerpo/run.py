"""What `innerpo train` and `innerpo eval` do, top to bottom. READ THIS FIRST.

pairs -> tokens -> reference (cached) -> directions -> training -> scores -> table
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from innerpo.config.run import RunConfig
from innerpo.config.yaml import read_run_config
from innerpo.data.pairs import PreferencePair, choose_negatives, shuffle_labels
from innerpo.data.tokens import PairTokenizer, PromptItem
from innerpo.data.training_pairs import training_pairs
from innerpo.errors import UserError
from innerpo.evaluation.facts import Scores
from innerpo.evaluation.report import write_scores
from innerpo.evaluation.scoring_run import prepare_scoring, score_run
from innerpo.evaluation.sets import EvaluationSet, load_sets
from innerpo.evaluation.tables import Headline
from innerpo.files import cache_root
from innerpo.methods.gradients.fit import fit_gradients
from innerpo.methods.inner_reward import InnerReward
from innerpo.methods.method import Method, build_method, fit_method
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base
from innerpo.model.forward.blocks import decoder_blocks
from innerpo.model.forward.layout import LayoutChoice, choose_layout
from innerpo.model.forward.sites import site_places
from innerpo.model.layer_spec import resolve_layers
from innerpo.model.loading import load_base
from innerpo.model.reference import compute_reference
from innerpo.training import artifacts
from innerpo.training.arguments import check_processes, train_policy, training_arguments
from innerpo.training.card import model_card
from innerpo.training.run_folder import check_run_dir, is_finished, run_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """Where a run landed, the sets that were scored, the facts (base and policy) and the headline tables by scorer."""

    folder: Path
    sets: tuple[EvaluationSet, ...] = ()
    scores: Scores | None = None
    tables: dict[str, Headline] | None = None


def train_and_score(config: RunConfig) -> RunResult:
    """Train one method on one data set with one seed, save the adapter, and score it beside its base."""
    started = time.time()
    training_arguments(config)  # refuses an unknown optimiser or a missing library before anything is computed
    process = PartialState()  # one of several under `accelerate launch`; files are the main process's business
    check_processes(config)
    if process.is_main_process:
        check_run_dir(config)
    process.wait_for_everyone()
    if is_finished(config):
        log.info(f"{config.run_dir} is finished: nothing to resume, scoring it again")
        return RunResult(config.run_dir) if config.eval.skip else evaluate(config.run_dir, config)
    known = training_pairs(config)
    pairs = choose_negatives(known, config.data.negatives, config.data.seed)
    pairs = shuffle_labels(pairs, config.data.shuffled_labels, config.data.seed)
    sets = [] if config.eval.skip else load_sets(config, known)

    base = load_base(config.model, cache_root(config.data.cache_dir))
    method = build_method(config.method, resolve_layers(config.method.layers, len(decoder_blocks(base.model))))
    if method.request is not None:
        site_places(base.model, method.layers, config.method.site)  # refuses a site that the model does not have
    items = _training_items(pairs, base, config)
    layout = _layout(base, items, config)

    reference = compute_reference(
        base,
        items,
        layout.layout,
        method.request,
        batch_size=config.data.batch_size,
        cache_dir=cache_root(config.data.cache_dir),
        what=f"{config.data.dataset} (train)",
        # Full fine-tuning has no adapter to switch off, so its reference cannot be run again once training began.
        token_limit_bytes=config.data.token_cache_gb * 1e9 if config.model.lora_r else float("inf"),
    )
    method = fit_method(method, reference, base.model, config.training.seed, layout.layout, base.pad_id)
    inner = _inner_reward(method)
    prepared = prepare_scoring(sets, base, config, layout, inner)

    data_hash = artifacts.hash_of_tokens(items)
    with run_folder(config, artifacts.inputs_hash(data_hash, base)) as checkpoint:
        if config.method.frozen:
            policy, summary = base.model, {"steps": 0, "train_seconds": 0.0}
        else:
            policy = add_adapter(base, config.model, config.training.seed)
            method = _with_gradients(method, policy, base, items, layout, config)
            summary = train_policy(policy, method, items, reference, layout.layout, base.pad_id, config, checkpoint)
        weights = summary.pop("gathered", None)
        record = artifacts.run_record(config, len(items), data_hash, method, layout) | summary
        record["seconds"] = time.time() - started
        if process.is_main_process:
            card = model_card(config, record)
            artifacts.save_run(config.run_dir, policy, base.tokenizer, method, record, card, weights)
            log.info(f"saved {config.run_dir}")
    if weights is not None:
        log.info(f"the weights are in pieces on several devices; score them with: innerpo eval {config.run_dir}")
    if config.eval.skip or not process.is_main_process or weights is not None:
        return RunResult(config.run_dir)
    scores = score_run(prepared, policy, config.method_label, config.method.frozen)
    return RunResult(config.run_dir, tuple(sets), scores, write_scores(config.run_dir, scores, sets, config))


def evaluate(folder: Path, config: RunConfig) -> RunResult:
    """Score a saved run, or any peft adapter, beside its base model."""
    artifacts.check_adapter(folder)
    sets = load_sets(config)
    base = load_base(config.model, cache_root(config.data.cache_dir))
    inner = artifacts.load_directions(folder)
    tokens = PairTokenizer(base.tokenizer, config.data.max_prompt_tokens, config.data.max_response_tokens)
    layout = _layout(base, tokens.scoring_items(sets[0].pairs[:8]), config)
    prepared = prepare_scoring(sets, base, config, layout, inner)
    label = folder.resolve().name if read_run_config(folder) is None else config.method_label
    scores = score_run(prepared, artifacts.load_policy(base, folder), label, config.method.frozen)
    target = artifacts.scores_folder(folder, config)
    return RunResult(target, tuple(sets), scores, write_scores(target, scores, sets, config))


def _with_gradients(
    method: Method, policy: Any, base: Base, items: Sequence[PromptItem], layout: LayoutChoice, config: RunConfig
) -> Method:
    return fit_gradients(
        method,
        policy,
        base,
        items,
        layout.layout,
        batch_size=config.data.batch_size,
        cache_dir=cache_root(config.data.cache_dir),
        seed=config.training.seed,
    )


def _training_items(pairs: Sequence[PreferencePair], base: Base, config: RunConfig) -> list[PromptItem]:
    data = config.data
    tokens = PairTokenizer(base.tokenizer, data.max_prompt_tokens, data.max_response_tokens)
    items = tokens.training_items(pairs)
    counts = tokens.report.line(data.max_prompt_tokens, data.max_response_tokens)
    log.info(f"training on {data.dataset}: {len(items)} pairs; {counts}")
    if not items:
        raise UserError(f"{data.dataset} has no pair left to train on")
    return items


def _layout(base: Base, items: Sequence[PromptItem], config: RunConfig) -> LayoutChoice:
    choice = choose_layout(base.model, items, base.pad_id, config.data.layout)
    log.info(f"layout: {choice.layout} ({choice.reason})")
    return choice


def _inner_reward(method: Method) -> InnerReward | None:
    """Say what the directions are worth, and return the scorer along them."""
    directions = method.directions
    if directions is None:
        return None
    shown = (
        f"{layer} (accuracy {accuracy:.2f}, weight {weight:.2f})"
        for layer, accuracy, weight in zip(
            method.layers, directions.accuracy.tolist(), directions.layer_weights.tolist(), strict=True
        )
    )
    log.info(f"directions: {method.config.direction}, {method.config.site} of blocks {', '.join(shown)}")
    return InnerReward(method.layers, method.transform, directions, method.config.pool, method.config.site)
