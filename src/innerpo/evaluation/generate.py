"""Texts of a run's policy and of its base on the same prompts, kept with the scores."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from innerpo.config.labels import label_of_folder
from innerpo.config.run import RunConfig
from innerpo.config.yaml import check_training_set
from innerpo.data.pairs import PreferencePair, take_prompts
from innerpo.data.tokens import Ids, PromptItem
from innerpo.data.training_pairs import load_split
from innerpo.errors import UserError, near_matches
from innerpo.evaluation.applied import check_tokenizer
from innerpo.evaluation.generations import Generation, write_generations
from innerpo.evaluation.headline_files import scores_folder
from innerpo.evaluation.score import score_items
from innerpo.evaluation.sets import PROMPT_SEED, EvaluationSet, load_sets, texts_of
from innerpo.evaluation.suites import targets
from innerpo.files import cache_root
from innerpo.model.adapters import check_bare
from innerpo.model.base import Base, reference_mode
from innerpo.model.generation import GenerationPrompt, Written, generate_both, not_in_one_batch
from innerpo.model.identity import fingerprint, hash_of_adapter
from innerpo.model.loading import load_base
from innerpo.model.sampling import Sampling
from innerpo.model.strength import at_strength
from innerpo.progress import track
from innerpo.training import artifacts
from innerpo.training.record import check_base

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationRequest:
    """Which prompts, and how texts are drawn.

    ``prompts`` counts them, a fixed choice from the evaluation set ``set`` of the run (0: all of it), or from the test
    split of a data set named by ``dataset``. ``strength`` is the factor on the adapter's update.
    """

    prompts: int = 20
    set: str = "test"
    dataset: str | None = None
    strength: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if self.prompts < 0:
            raise UserError(f"prompts must not be negative, got {self.prompts}")
        if not math.isfinite(self.strength):
            raise UserError(f"strength must be a finite number, got {self.strength:g}")


@dataclass(frozen=True)
class Generated:
    """The texts of one request, base and policy in turn for each prompt; ``path`` is the file that holds them."""

    path: Path
    texts: tuple[Generation, ...]


def generate_run(
    folder: Path, config: RunConfig, request: GenerationRequest | None = None, base: Base | None = None
) -> Generated:
    """Write texts of a run (or of any peft adapter) and of its base to the same prompts.

    The same request on the same weights gives the same texts. Nothing is written where it is interrupted. Raises
    UserError where the folder holds no adapter, the base is another, or the set has no prompts.
    """
    request = request or GenerationRequest()
    artifacts.check_adapter(folder)
    chosen = _chosen(folder, config, request)
    base = base or load_base(config.model, cache_root(config.data.cache_dir))
    check_bare(base)
    check_base(folder, base)
    check_tokenizer(folder, base, texts_of([chosen]))
    label = label_of_folder(folder, config)
    tokens = base.pair_tokenizer(config.data)
    firsts = list({pair.cluster: pair for pair in chosen.pairs}.values())
    prompts = [GenerationPrompt(*tokens.generation_prompt(p.prompt), key=p.cluster) for p in firsts]
    with (
        artifacts.loaded_policy(base, folder) as policy,
        at_strength(policy, request.strength, base.model),
    ):
        texts = _texts(policy, base, prompts, request.sampling, config.eval.batch_size)
        logps = _logps(policy, base, prompts, texts, config.eval.batch_size)
    adapter = hash_of_adapter(folder, cache_root(config.data.cache_dir))
    whose = (("base", 0.0, fingerprint(base.model)), (label, request.strength, adapter))
    rows = tuple(
        _row(chosen, pair, prompt, model, own, both, base, request)
        for pair, prompt, by_model, both_of in zip(firsts, prompts, zip(*texts, strict=True), logps, strict=True)
        for model, own, both in zip(whose, by_model, both_of, strict=True)
    )
    path = write_generations(scores_folder(folder, config), rows)
    return Generated(path, rows)


def _chosen(folder: Path, config: RunConfig, request: GenerationRequest) -> EvaluationSet:
    """Return the set with the prompts to answer, each with its pairs."""
    if request.dataset is not None:
        every = load_split(request.dataset, "test", replace(config.data, seed=PROMPT_SEED))
        found = EvaluationSet(request.dataset, request.dataset, "test", "extra", "", tuple(every))
    else:
        check_training_set(folder, config.eval.train_dataset)
        found = _of_run(request.set, config)
    return replace(found, pairs=tuple(take_prompts(found.pairs, request.prompts, PROMPT_SEED)))


def _of_run(name: str, config: RunConfig) -> EvaluationSet:
    """Return one of the run's evaluation sets, and load no other."""
    known = ["train", "test", *(target.name for target in targets(config))]
    if name not in known:
        raise UserError(f"there is no evaluation set {name!r}{near_matches(name, known)}")
    (found,) = load_sets(replace(config, eval=replace(config.eval, sets=(name,), strength_sets=())))
    return found


def _texts(
    policy: Any, base: Base, prompts: Sequence[GenerationPrompt], sampling: Sampling, batch_size: int
) -> tuple[list[Written], list[Written]]:
    """Return the base's and the policy's texts on all prompts; those of a frozen method are the base's."""
    reason = "it is the base" if policy is base.model else not_in_one_batch(policy)
    log.info("base and policy in one batch" if not reason else f"base and policy one after the other: {reason}")
    own, theirs = list[Written](), list[Written]()
    starts = range(0, len(prompts), batch_size)
    for start in track(starts, f"generating on {len(prompts)} prompts"):
        found = generate_both(policy, base, prompts[start : start + batch_size], sampling)
        own += found[0]
        theirs += found[1]
    return own, theirs


def _logps(
    policy: Any,
    base: Base,
    prompts: Sequence[GenerationPrompt],
    texts: tuple[list[Written], list[Written]],
    batch_size: int,
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return for each prompt, of the base's and of the policy's text, (log-prob by its writer, by the base)."""
    items = [
        PromptItem(prompt.ids, (own.ids, theirs.ids), (0, 0), (), prompt.key)
        for prompt, (own, theirs) in zip(prompts, zip(*texts, strict=True), strict=True)
    ]
    by = []
    for model, what in ((base.model, "base"), (policy, "policy")):
        options: dict[str, Any] = {"batch_size": batch_size, "request": None, "what": f"texts with the {what}"}
        if what == "base":
            with reference_mode(policy):
                out = score_items(model, items, "concatenated", base.pad_id, **options)
        else:
            out = score_items(model, items, "concatenated", base.pad_id, **options)
        by.append(out.logps.double().reshape(-1, 2).tolist())
    return [((b[0], b[0]), (p[1], b[1])) for b, p in zip(*by, strict=True)]


def _row(
    chosen: EvaluationSet,
    pair: PreferencePair,
    prompt: GenerationPrompt,
    model: tuple[str, float, str],
    written: Written,
    logps: tuple[float, float],
    base: Base,
    request: GenerationRequest,
) -> Generation:
    label, strength, weights = model
    ids = written.ids[:-1] if written.stopped else written.ids
    return Generation(
        set=chosen.name,
        dataset=chosen.dataset,
        split=chosen.split,
        prompt_id=pair.cluster,
        prompt=pair.prompt,
        model=label,
        strength=strength,
        text=decoded(base.tokenizer, prompt.ids, ids),
        tokens=len(written.ids),
        logp=logps[0],
        logp_base=logps[1],
        stopped=written.stopped,
        sampling=request.sampling,
        weights=weights,
    )


def decoded(tokenizer: Any, prompt: Ids, ids: Ids) -> str:
    """Return the text of some tokens as it stands behind its prompt: alone, some tokenizers drop a leading space."""
    before, whole = tokenizer.decode(list(prompt)), tokenizer.decode([*prompt, *ids])
    return str(whole[len(before) :] if whole.startswith(before) else tokenizer.decode(list(ids)))
