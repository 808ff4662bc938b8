"""What a trial does: train on one part of the train split, and measure on the other. It is given pairs, not names."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
from transformers import TrainerCallback

from innerpo.config.run import RunConfig
from innerpo.data.tokens import hash_of_items
from innerpo.errors import UserError
from innerpo.evaluation.facts import Scores
from innerpo.evaluation.outcomes import pair_outcomes
from innerpo.evaluation.prepared import PreparedScoring
from innerpo.evaluation.scoring_run import prepare_scoring, score_run
from innerpo.experiments.tuning.parts import Parts
from innerpo.experiments.tuning.request import TuneRequest
from innerpo.model.base import Base
from innerpo.training.prepare import adapted, first_adapted_block, planned_steps, prepare_items, training_items
from innerpo.training.record import inputs_hash
from innerpo.training.run_folder import run_folder
from innerpo.training.train import train_policy

log = logging.getLogger(__name__)

Look = Callable[[int, Callable[[], float]], bool]
"""``look(step, measure)``: whether a trial goes on after a step; ``measure`` returns its value there."""


@dataclass(frozen=True)
class Measure:
    """What a trial reached on the validation part."""

    value: float
    accuracy: float
    drift: float
    steps: int = 0
    pruned: bool = False


def try_config(config: RunConfig, base: Base, parts: Parts, request: TuneRequest, look: Look) -> Measure:
    """Train a config in its folder, going on from a checkpoint there, and measure it.

    ``look`` is asked at a third and at two thirds of the steps whether to go on. Raises UserError where training fails
    or where nothing can be measured.
    """
    items = training_items(config, base, parts.fit)
    prepared = prepare_items(config, base, items)
    inner = prepared.method.inner_reward if request.scorer == "inner" else None
    first = first_adapted_block(config, base.n_blocks)
    plain = replace(config, eval=replace(config.eval, steer=0.0))  # the steered base is no part of a trial's value
    scoring = prepare_scoring([parts.validation], base, plain, inner, adapted=first)
    inputs = inputs_hash(hash_of_items(items), base)
    with adapted(prepared, config) as (policy, method), run_folder(config, inputs) as checkpoint:

        def measure() -> Measure:
            return measured(scoring, policy, base, request)

        looks = _Looks(pruning_steps(planned_steps(config, len(items))), lambda: measure().value, look)
        callbacks = [looks] if request.prune else []
        steps = train_policy(policy, method, prepared.pairs, config, checkpoint, callbacks)["steps"]
        found = Measure(float("nan"), float("nan"), float("nan"), pruned=True) if looks.stopped else measure()
        return Measure(found.value, found.accuracy, found.drift, steps, found.pruned)


def measured(scoring: PreparedScoring, policy: Any, base: Base, request: TuneRequest) -> Measure:
    """Score a policy on the validation part, and leave it in the mode in which it was."""
    was_training = policy.training
    try:
        scores = score_run(scoring, policy, base, "policy")
    finally:
        policy.train(was_training)
    return measure_of(scores, request.scorer, request.drift_penalty)


def measure_of(scores: Scores, scorer: str, drift_penalty: float) -> Measure:
    """Return the policy's accuracy less its penalised drift. Raises UserError where either is unknown."""
    outcomes = pair_outcomes(scores, scorer).filter(pl.col("model") == "policy")["outcome"].to_numpy()
    rows = scores.responses.filter(pl.col("model") == "policy")
    accuracy = float(outcomes.mean()) if len(outcomes) else float("nan")
    drift = float(rows["abs_log_ratio"].sum()) / max(1, int(rows["tokens"].sum()))
    value = accuracy - drift_penalty * drift if drift_penalty else accuracy
    if value != value:
        raise UserError(f"the validation part cannot be measured by {scorer}: accuracy {accuracy}, drift {drift}")
    return Measure(value, accuracy, drift)


def pruning_steps(n_steps: int) -> tuple[int, ...]:
    """Return the steps after which a trial may be given up: a third and two thirds of them, none of very few."""
    return () if n_steps < 3 else tuple(sorted({round(n_steps / 3), round(2 * n_steps / 3)}))


class _Looks(TrainerCallback):
    """Asks at some steps whether training goes on."""

    def __init__(self, steps: tuple[int, ...], measure: Callable[[], float], look: Look) -> None:
        self.steps, self.measure, self.look = steps, measure, look
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.steps and not self.look(state.global_step, self.measure):
            self.stopped = control.should_training_stop = True
