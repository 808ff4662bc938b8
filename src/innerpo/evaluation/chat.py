"""A conversation with base and policy side by side: each goes on from its own answers, both judge every answer."""

import functools
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from innerpo.config.labels import label_of_folder
from innerpo.config.run import RunConfig
from innerpo.data.pairs import Message, Text
from innerpo.data.tokens import PairTokenizer, PromptItem
from innerpo.errors import UserError
from innerpo.evaluation.generate import decoded
from innerpo.evaluation.score import score_items
from innerpo.files import cache_root
from innerpo.model.adapters import check_bare
from innerpo.model.base import Base, reference_mode
from innerpo.model.context import max_positions
from innerpo.model.generation import GenerationPrompt, stops_of
from innerpo.model.loading import load_base
from innerpo.model.sampling import Sampling
from innerpo.model.streaming import check_room, stream
from innerpo.model.strength import at_strength
from innerpo.progress import SILENT, reporting
from innerpo.training import artifacts
from innerpo.training.record import check_base

log = logging.getLogger(__name__)

BASE, POLICY = "base", "policy"
SIDES = (BASE, POLICY)
MOST_TOKENS = 1_000_000


def _hidden(*_: str) -> None:
    """Show nothing of an answer while it grows."""


def _check_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"the {name} must be a finite number, got {value:g}")


@contextmanager
def open_conversation(
    folder: Path,
    config: RunConfig,
    sampling: Sampling,
    temperature: float = 0.0,
    base: Base | None = None,
    **options: Any,
) -> "Iterator[Conversation]":
    """Put a run's adapter on its base for a conversation, whose ``options`` follow; take it off at the end.

    Raises UserError where the folder holds no adapter, or the base has other weights than the run's.
    """
    artifacts.check_adapter(folder)
    base = base or load_base(config.model, cache_root(config.data.cache_dir))
    check_bare(base)
    check_base(folder, base)
    strength = options.pop("strength", 1.0)
    with artifacts.loaded_policy(base, folder) as policy:
        talk = Conversation(base, policy, label_of_folder(folder, config), sampling=sampling, **options)
        talk.set_strength(strength)
        talk.set_temperature(temperature)
        yield talk


@dataclass(frozen=True)
class Answer:
    """A text with its log-probability (summed over its tokens, nats, at temperature 1) under base and policy.

    ``ended``: the model ended it; else it was stopped, by a person or by the limit of tokens.
    """

    side: str
    text: str
    tokens: int
    logp_base: float
    logp_policy: float
    ended: bool

    def by(self, side: str) -> tuple[float, float]:
        """Its log-probability under base or policy: summed, and per token."""
        logp = self.logp_base if side == BASE else self.logp_policy
        return logp, logp / self.tokens if self.tokens else float("nan")


@dataclass
class Conversation:
    """What was said so far with base and policy.

    ``label`` names the policy, ``strength`` is the factor on its update. With ``plain``, or where the tokenizer has no
    chat template, a prompt is given to the models as it is and stands alone: there is no history. ``system`` opens a
    conversation by template. Raises UserError where ``system`` is given and there is no template for it.
    """

    base: Base
    policy: Any
    label: str = POLICY
    strength: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    plain: bool = False
    system: str = ""
    turns: int = 0
    history: dict[str, list[Message]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.system and not self.by_template:
            why = "plain is set" if self.plain else f"the tokenizer of {self.base.name} has none"
            raise UserError(f"a system turn needs a chat template, and {why}; leave system out")
        limit = int(min(max_positions(self.base.model), MOST_TOKENS))
        self.tokens = PairTokenizer(self.base.tokenizer, limit, limit)
        self.reset()

    @property
    def by_template(self) -> bool:
        """Whether prompts are turns of a conversation, by the tokenizer's chat template."""
        return not self.plain and bool(self.base.tokenizer.chat_template)

    def reset(self) -> None:
        """Forget what was said."""
        opening: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        self.history = {side: list(opening) for side in SIDES}

    def both(self, prompt: str, show: Callable[[str, str], object] = _hidden) -> list[Answer]:
        """Return the answers of base and policy to a prompt, and remember them; ``show(side, text)`` as they grow."""
        answers = [self.answer(prompt, side, functools.partial(show, side)) for side in SIDES]
        self.turns += 1
        for answer in answers:
            said = ("user", prompt), ("assistant", answer.text)
            self.history[answer.side] += [{"role": role, "content": text} for role, text in said]
        return answers

    def answer(self, prompt: str, side: str, show: Callable[[str], object] = _hidden) -> Answer:
        """Return the answer of base or policy to a prompt, as it goes on from its own earlier ones.

        ``show`` is called with the text so far after every token. KeyboardInterrupt stops the answer, which is then
        what there is of it. Raises UserError where the conversation is too long for the model.
        """
        said: Text = self._said(prompt, side)
        where = GenerationPrompt(*self.tokens.generation_prompt(said), key=f"chat {self.turns}")
        check_room(self.base, where, self.sampling)
        ids = list[int]()
        model = self.base.model if side == BASE else self.policy
        try:
            with self._as(side):
                for token in stream(model, self.base, where, self.sampling):
                    ids.append(token)
                    show(self._text(where, ids))
        except KeyboardInterrupt:
            log.info("stopped")
        ended = bool(ids) and ids[-1] in {*stops_of(self.base), where.close}
        return Answer(side, self._text(where, ids), len(ids), *self._logps(where, ids), ended)

    def set_strength(self, strength: float) -> None:
        """Change the factor on the adapter's update. Raises UserError for an adapter that cannot be scaled."""
        _check_finite("strength", strength)
        with at_strength(self.policy, strength, self.base.model):
            self.strength = strength

    def set_temperature(self, temperature: float) -> None:
        """Draw answers at a temperature; 0 takes the most likely tokens."""
        _check_finite("temperature", temperature)
        if temperature < 0:
            raise UserError(f"the temperature must be 0 (greedy) or above, got {temperature:g}")
        drawn = temperature > 0
        self.sampling = replace(self.sampling, sample=drawn, temperature=temperature if drawn else 1.0)

    def _said(self, prompt: str, side: str) -> Text:
        if not self.by_template:
            return prompt
        return (*self.history[side], {"role": "user", "content": prompt})

    @contextmanager
    def _as(self, side: str) -> Iterator[None]:
        """Be the base (the adapter is off) or the policy at its strength."""
        if side == BASE:
            with reference_mode(self.policy):
                yield
        else:
            self.policy.eval()
            with at_strength(self.policy, self.strength, self.base.model):
                yield

    def _text(self, prompt: GenerationPrompt, ids: list[int]) -> str:
        special = set(self.base.tokenizer.all_special_ids) | {prompt.close}
        shown = ids[:-1] if ids and ids[-1] in special else ids
        return decoded(self.base.tokenizer, prompt.ids, tuple(shown))

    @torch.no_grad()
    def _logps(self, prompt: GenerationPrompt, ids: list[int]) -> tuple[float, float]:
        """Log-probability of an answer under base and policy, each after that answer's own conversation."""
        if not ids:
            return float("nan"), float("nan")
        item = PromptItem(prompt.ids, (tuple(ids),), (0,), (), prompt.key)
        found = []
        for side in SIDES:
            model = self.base.model if side == BASE else self.policy
            with self._as(side), reporting(SILENT):
                options: dict[str, Any] = {"batch_size": 1, "request": None, "what": "an answer"}
                out = score_items(model, [item], "concatenated", self.base.pad_id, **options)
            found.append(float(out.logps.double().sum()))
        return found[0], found[1]
