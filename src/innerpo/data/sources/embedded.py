"""Data sets that the package generates, with shifts between them, for the demo and for tests.

The task is to name the larger of two numbers. SmolLM2-135M-Instruct is at chance and learns it in one epoch of 128
pairs, so a distribution shift has an accuracy to reduce. Accuracy by mean log-probability on the 64 test pairs, base
and after DPO (lr 5e-4, beta 0.1, one seed):

==================  =====  ==================  =================
scored on           base   DPO on ``compare``  DPO on ``longer``
==================  =====  ==================  =================
``compare``         .453   .922                .906
``compare_hard``    .688   .734                -
``compare_format``  .625   .922                -
``longer``          .656   1.0                 1.0
``shorter``         .219   .828                .000
``control``         .891   .828                .891
==================  =====  ==================  =================

==================  ==================================================================================
``compare``         two digits, at least 10 apart: the first digit decides
``compare_hard``    three digits, the first the same and the second not (difficulty)
``compare_format``  ``compare`` as a list to complete (another form of the question)
``longer``          ``compare`` where the right answer is also the longer one (a spurious cue)
``shorter``         the same with the right answer the shorter one: the cue of ``longer`` is wrong
``control``         unrelated: agreement of a verb with its noun, past a noun of the other number
==================  ==================================================================================
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from innerpo.config.run import DataConfig
from innerpo.data.pairs import BadRows, PreferencePair
from innerpo.data.sources.parse import make_pair
from innerpo.errors import UserError, near_matches

SIZES = {"train": 128, "test": 64}
"""Pairs in each split."""


@dataclass(frozen=True)
class Drawn:
    """One generated question. ``fact`` is what it asks about, independent of the wording; the split depends on it."""

    fact: str
    prompt: str
    chosen: str
    rejected: str


QUESTION = "Which number is larger, {a} or {b}?\nAnswer:"
LIST = "Numbers: {a}, {b}\nLargest:"


def _compare(question: str, right: str, wrong: str) -> Callable[[Random], Drawn]:
    """Return a generator of questions on two-digit numbers; {n} in an answer stands for the number it names."""

    def draw(rng: Random) -> Drawn:
        a, b = rng.sample(range(10, 100), 2)
        while abs(a - b) < 10:
            a, b = rng.sample(range(10, 100), 2)
        return _question(a, b, question, right, wrong)

    return draw


def _compare_hard(rng: Random) -> Drawn:
    hundreds = 100 * rng.randint(1, 9)
    tens = rng.sample(range(10), 2)  # two different ones, in random order
    a, b = (hundreds + 10 * ten + rng.randint(0, 9) for ten in tens)
    return _question(a, b, QUESTION, " {n}.", " {n}.")


def _question(a: int, b: int, question: str, right: str, wrong: str) -> Drawn:
    small, large = sorted((a, b))
    prompt = question.format(a=a, b=b)
    return Drawn(f"{small} {large}", prompt, right.format(n=large), wrong.format(n=small))


NOUNS = ("key", "picture", "letter", "book", "photo", "coat", "bag", "song", "note", "lamp")
OWNERS = (
    "cabinet",
    "house",
    "garden",
    "teacher",
    "river",
    "doctor",
    "student",
    "neighbour",
    "bridge",
    "actor",
)


def _control(rng: Random) -> Drawn:
    one = rng.random() < 0.5
    noun, owner = rng.choice(NOUNS), rng.choice(OWNERS)
    # The nearer noun has the other number, so that agreement with the last word is wrong.
    prompt = f"The {noun}{'' if one else 's'} {rng.choice(('near', 'of', 'behind'))} the {owner}{'s' if one else ''}"
    right, wrong = (" is", " are") if one else (" are", " is")
    end = rng.choice((" lost.", " old.", " small."))
    return Drawn(prompt, prompt, right + end, wrong + end)


DISTRIBUTIONS: dict[str, Callable[[Random], Drawn]] = {
    "compare": _compare(QUESTION, " {n}.", " {n}."),
    "compare_hard": _compare_hard,
    "compare_format": _compare(LIST, " {n}.", " {n}."),
    "longer": _compare(QUESTION, " {n} is the larger number.", " {n} is larger."),
    "shorter": _compare(QUESTION, " {n} is larger.", " {n} is the larger number."),
    "control": _control,
}


def load(name: str, split: str, data: DataConfig, bad: BadRows) -> list[PreferencePair]:
    """Return the pairs of an embedded distribution.

    The training pairs are a function of its name and ``data.seed``; the test pairs of its name alone, so that runs with
    different data seeds are scored on the same pairs.
    """
    del bad  # nothing generated is bad
    if name not in DISTRIBUTIONS:
        raise UserError(f"unknown embedded data set {name!r}{near_matches(name, DISTRIBUTIONS)}")
    seed = data.seed if split == "train" else 0
    rng, drawn = Random(f"{seed}/{name}/{split}"), dict[str, Drawn]()
    while len(drawn) < SIZES[split]:
        question = DISTRIBUTIONS[name](rng)
        if split_of(question.fact) == split:
            drawn.setdefault(question.fact, question)
    source = f"embedded:{name}"
    return [
        make_pair(d.prompt, d.chosen, d.rejected, id=f"{source}/{split}/{i}", source=source, split=split)
        for i, d in enumerate(drawn.values())
    ]


def split_of(fact: str) -> str:
    """Return the split of a fact; it is the same in every distribution and for every seed.

    No test question of one distribution is therefore a training question of another, reworded or reordered.
    """
    return "test" if hashlib.sha256(fact.encode()).digest()[0] % 3 == 0 else "train"
