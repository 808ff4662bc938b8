"""The data of a search: the train split of its source in two, without a prompt in both. Nothing else is ever loaded."""

from dataclasses import dataclass

from innerpo.data.pairs import PreferencePair, choose_negatives, hold_out, take_prompts
from innerpo.data.training_pairs import load_split
from innerpo.evaluation.sets import PROMPT_SEED, EvaluationSet
from innerpo.experiments.tuning.request import TuneRequest
from innerpo.model.cache import content_key


@dataclass(frozen=True)
class Parts:
    """What trials train on, and what they are measured on."""

    fit: tuple[PreferencePair, ...]
    validation: EvaluationSet

    @property
    def id(self) -> str:
        """Identity of both parts."""
        every = (*self.fit, None, *self.validation.pairs)
        return content_key(pairs=[p and (p.prompt, p.chosen, p.rejected) for p in every])

    @property
    def facts(self) -> dict[str, int | str]:
        """What the record of a search says of its data."""
        n_fit = len({p.cluster for p in self.fit})
        return {"data": self.id, "training_prompts": n_fit, "validation_prompts": self.validation.n_prompts}


def parts_of(request: TuneRequest) -> Parts:
    """Return the parts of the search's data set: its train split, and of that alone.

    The prompts that are held out depend on the seed of the search only, so that methods are compared on the same.
    ``eval.max_prompts`` bounds them, ``data.max_train_prompts`` the others.
    """
    data, e = request.config.data, request.config.eval
    pairs = load_split(data.dataset, "train", data)
    n_prompts = len({p.cluster for p in pairs})
    wanted = request.validation
    n = max(1, round(wanted * n_prompts)) if wanted < 1 else int(wanted)
    rest, held = hold_out(pairs, min(n, e.max_prompts or n), request.seed)
    fit = take_prompts(rest, data.max_train_prompts, data.seed)
    measured = tuple(choose_negatives(held, e.negatives, PROMPT_SEED))
    return Parts(tuple(fit), EvaluationSet("validation", data.dataset, "train", "extra", "", measured))
