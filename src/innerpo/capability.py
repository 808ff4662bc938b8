"""Target-tuned capability: what the base model reaches on a target if it is trained on the target itself.

Elicitation and differential elicitation (GENIES, arXiv 2311.07723) relate an accuracy out of distribution to it. It is
a figure of (base model, target), so all methods share it: one run of ``eval.capability`` (commonly dpo) with seed 1 on
the target's train split, scored on its test split, kept beside the other runs and found again.
"""

import json
import logging
from dataclasses import replace

from innerpo.config.method import default_method
from innerpo.config.run import RunConfig
from innerpo.errors import UserError
from innerpo.evaluation.capability_file import FILE
from innerpo.evaluation.outcomes import pair_outcomes
from innerpo.evaluation.sets import EvaluationSet
from innerpo.files import write_text
from innerpo.model.base import Base
from innerpo.run import Run, train

log = logging.getLogger(__name__)

SCORER = "mean_logp"


def with_capability(run: Run, base: Base | None = None) -> Run:
    """Measure the capability of every target of a scored run and write it into capability.json beside the scores.

    The file maps a set's name to its accuracy (mean log-prob), the run that has it, and a note where there is none.
    Returns the run as it came. Nothing happens where ``eval.capability`` names no method.
    """
    if not run.config.eval.capability or run.scores is None:
        return run
    found = {}
    for target in run.sets:
        if target.role == "oos" and target.pairs:
            found[target.name] = _capability(target, run.config, base)
    write_text(run.folder / FILE, json.dumps(found, indent=2) + "\n")
    return run


def capability_config(config: RunConfig, dataset: str) -> RunConfig:
    """Return the run that measures a target's capability: the run's own options, on the target, seed 1.

    What makes a run a control (shuffled labels or prompts) is no part of it, nor is what only the run's scores need.
    """
    own = replace(config.eval, capability="", skip=False, steer=0.0, strength_sets=(), ref_model=None)
    return replace(
        config,
        method=default_method(config.eval.capability),
        data=replace(config.data, dataset=dataset, shuffled_labels=0.0, shuffled_prompts=False),
        training=replace(config.training, seed=1, resume=True, overwrite=False),
        eval=replace(own, suite="headline", sets=("test",), strengths=(1.0,), train_dataset=None),
        output_dir=config.output_dir / "capability",
    )


def _capability(target: EvaluationSet, config: RunConfig, base: Base | None) -> dict[str, float | str | None]:
    tuned = capability_config(config, target.dataset)
    log.info(f"capability of {target.name}: {tuned.method_label} on {target.dataset}")
    try:
        scores = train(tuned, base).scores
        if scores is None:
            raise UserError("its weights are sharded over devices; score them in a process of their own")
        rows = pair_outcomes(scores, SCORER)
        own = rows.filter((rows["model"] != "base") & (rows["set"] == "test"))
        if not len(own):
            raise UserError("none of its test pairs could be scored")
    except UserError as error:
        log.info(f"capability of {target.name} is unknown: {error}")
        return {"accuracy": None, "run": str(tuned.run_dir), "note": str(error)}
    return {"accuracy": float(own["outcome"].to_numpy().mean()), "run": str(tuned.run_dir), "note": ""}
