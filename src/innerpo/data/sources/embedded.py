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

The cue bench: a right answer that the model can learn, and a cue that agrees with it in most training pairs.

======================  ==================================================================================
``cue``                 ``compare`` where the right answer is the longer one; in training in a fraction rho only
``cue_reversed``        the right answer is the shorter one: the cue is wrong in every pair
``cue_half``            the cue is right in half of the pairs
``marker``              the same three with a phrase before the answer as the cue
``marker_reversed``
``marker_half``
======================  ==================================================================================

Options stand in brackets: ``cue(rho=.8,noise=.05)``. In the training split the cue agrees with the right answer in a
fraction rho of the pairs (.95 by default) and a fraction noise of the pairs (0) has its labels swapped. Test pairs have
neither: the cue is right in all pairs of ``cue``, in none of ``cue_reversed``.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows, PreferencePair
from innerpo.data.sources.parse import make_pair
from innerpo.errors import UserError, near_matches

SIZES = {"train": 128, "test": 64}
"""Pairs in each split."""
CUE_SIZES = {"train": 192, "test": 64}
"""Pairs in each split of the cue bench: at rho = .95 ten training pairs contradict the cue."""
RHO, NOISE = 0.95, 0.0


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


CUES = {"cue": (" {n} is the larger number.", " {n} is larger."), "marker": (" Clearly {n}.", " Perhaps {n}.")}
"""Forms of an answer with the cue and without it."""
AGREEMENT = {"": RHO, "_reversed": 0.0, "_half": 0.5}
"""In what part of the pairs the right answer has the cue, by the end of the distribution's name."""


def _cued(cue: str, ending: str, split: str, rho: float, noise: float, rng: Random) -> list[Drawn]:
    """Return the questions of a split of the cue bench; the parts rho and noise are exact counts, in random order."""
    n = CUE_SIZES[split]
    agreement = rho if split == "train" and not ending else 1.0 if not ending else AGREEMENT[ending]
    agrees = _some(n, agreement, rng)
    swapped = _some(n, noise if split == "train" else 0.0, rng)
    with_cue, without = CUES[cue]
    draw = _compare(QUESTION, "{n}", "{n}")
    drawn: dict[str, Drawn] = {}
    while len(drawn) < n:
        question = draw(rng)
        if split_of(question.fact) != split or question.fact in drawn:
            continue
        right, wrong = (with_cue, without) if agrees[len(drawn)] else (without, with_cue)
        answers = right.format(n=question.chosen), wrong.format(n=question.rejected)
        chosen, rejected = reversed(answers) if swapped[len(drawn)] else answers
        drawn[question.fact] = Drawn(question.fact, question.prompt, chosen, rejected)
    return list(drawn.values())


def _some(n: int, part: float, rng: Random) -> list[bool]:
    chosen = set(rng.sample(range(n), round(part * n)))
    return [i in chosen for i in range(n)]


DISTRIBUTIONS: dict[str, Callable[[Random], Drawn]] = {
    "compare": _compare(QUESTION, " {n}.", " {n}."),
    "compare_hard": _compare_hard,
    "compare_format": _compare(LIST, " {n}.", " {n}."),
    "longer": _compare(QUESTION, " {n} is the larger number.", " {n} is larger."),
    "shorter": _compare(QUESTION, " {n} is larger.", " {n} is the larger number."),
    "control": _control,
}


CUE_NAMES = tuple(f"{cue}{ending}" for cue in CUES for ending in AGREEMENT)
NAMES = (*DISTRIBUTIONS, *CUE_NAMES)


def load(name: str, split: str, data: DataConfig, bad: BadRows) -> list[PreferencePair]:
    """Return the pairs of an embedded distribution.

    The training pairs are a function of its name and ``data.seed``; the test pairs of its name alone, so that runs with
    different data seeds are scored on the same pairs.
    """
    del bad  # nothing generated is bad
    plain, options = read_options(name)
    seed = data.seed if split == "train" else 0
    rng, drawn = Random(f"{seed}/{plain}/{split}"), dict[str, Drawn]()
    if plain in CUE_NAMES:
        cue, under, ending = plain.partition("_")
        questions = _cued(cue, under + ending, split, options.get("rho", RHO), options.get("noise", NOISE), rng)
        drawn = {question.fact: question for question in questions}
    while plain in DISTRIBUTIONS and len(drawn) < SIZES[split]:
        question = DISTRIBUTIONS[plain](rng)
        if split_of(question.fact) == split:
            drawn.setdefault(question.fact, question)
    source = f"embedded:{name}"
    return [
        make_pair(d.prompt, d.chosen, d.rejected, id=f"{source}/{split}/{i}", source=source, split=split)
        for i, d in enumerate(drawn.values())
    ]


def read_options(name: str) -> tuple[str, dict[str, float]]:
    """Return ``cue(rho=.8)`` as ("cue", {"rho": .8}). Raises UserError for a name or an option that does not exist."""
    plain, bracket, rest = name.partition("(")
    if plain not in NAMES or (bracket and not rest.endswith(")")):
        raise UserError(f"unknown embedded data set {name!r}{near_matches(plain, NAMES)}")
    known, found = ("rho", "noise") if plain in CUES else (), dict[str, float]()
    for part in rest.removesuffix(")").split(",") if bracket else ():
        key, _, value = part.strip().partition("=")
        try:
            found[key] = float(value)
        except ValueError:
            found[key] = -1.0
        if key not in known or not 0.0 <= found[key] <= 1.0:
            options = "rho and noise, each from 0 to 1" if known else "no options"
            raise UserError(f"{part.strip()!r} in embedded:{name} is no option of it: embedded:{plain} has {options}")
    return plain, found


def split_of(fact: str) -> str:
    """Return the split of a fact; it is the same in every distribution and for every seed.

    No test question of one distribution is therefore a training question of another, reworded or reordered.
    """
    return "test" if hashlib.sha256(fact.encode()).digest()[0] % 3 == 0 else "train"
