"""The preference pair, and the selections made from lists of pairs before tokenisation."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from innerpo.errors import UserError

Message = Mapping[str, str]
"""One chat message, ``{"role": ..., "content": ...}``."""

Text = str | tuple[Message, ...]
"""A prompt or a response: plain text, or chat messages."""


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with a better and a worse response.

    ``id`` is unique within its source and names the row it came from. ``cluster`` identifies the prompt: pairs with
    the same prompt have the same cluster, and confidence intervals resample clusters, not pairs.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    id: str
    source: str
    split: str
    cluster: str


@dataclass
class BadRows:
    """Rows of a data set that were left out, one reason each, so that the caller can report them."""

    reasons: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.reasons)


def n_characters(text: Text) -> int:
    """Return the characters of a text, or of the contents of its messages together."""
    return len(text) if isinstance(text, str) else sum(len(m["content"]) for m in text)


def cluster_of(prompt: Text) -> str:
    """Return the identity of a prompt (or response): 16 hex digits of the SHA-256 of its text or messages."""
    text = prompt if isinstance(prompt, str) else "\x1e".join(f"{m['role']}\x1f{m['content']}" for m in prompt)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def drop_repeats(pairs: Sequence[PreferencePair], bad: BadRows) -> list[PreferencePair]:
    """Keep the first of pairs with the same prompt, chosen and rejected; each of the others is added to ``bad``.

    A repeated row would count twice in training and in every score.
    """
    first: dict[tuple[str, str, str], PreferencePair] = {}
    for pair in pairs:
        kept = first.setdefault((pair.cluster, cluster_of(pair.chosen), cluster_of(pair.rejected)), pair)
        if kept is not pair:
            bad.reasons.append(f"{pair.id}: repeats {kept.id} (same prompt, chosen and rejected)")
    return list(first.values())


def choose_negatives(
    pairs: Sequence[PreferencePair], negatives: Literal["one", "all"], seed: int
) -> list[PreferencePair]:
    """Keep one rejected response per (prompt, chosen), or all of them.

    The choice depends on the seed and the prompt only, not on other pairs. A subset of a data set therefore keeps
    the same rejected responses as the whole data set.
    """
    if negatives == "all":
        return list(pairs)
    groups: dict[tuple[str, str], list[PreferencePair]] = {}
    for pair in pairs:
        groups.setdefault((pair.cluster, cluster_of(pair.chosen)), []).append(pair)
    return [random.Random(f"{seed}/{cluster}").choice(group) for (cluster, _), group in groups.items()]


def take_prompts(pairs: Sequence[PreferencePair], n: int | None, seed: int) -> list[PreferencePair]:
    """Keep the pairs of ``n`` randomly chosen prompts, in their original order; None or 0 keeps all."""
    clusters = list(dict.fromkeys(p.cluster for p in pairs))
    if not n or n >= len(clusters):
        return list(pairs)
    kept = set(random.Random(f"{seed}/take").sample(clusters, n))
    return [p for p in pairs if p.cluster in kept]


def hold_out(pairs: Sequence[PreferencePair], n: int, seed: int) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Split pairs in those of ``n`` randomly chosen prompts and the rest; return the rest first.

    The order is kept. Raises UserError where no prompt would be left.
    """
    clusters = list(dict.fromkeys(p.cluster for p in pairs))
    if not 0 < n < len(clusters):
        raise UserError(f"cannot hold out {n} of {len(clusters)} prompts: both parts need at least one")
    held = set(random.Random(f"{seed}/hold out").sample(sorted(clusters), n))
    return [p for p in pairs if p.cluster not in held], [p for p in pairs if p.cluster in held]


def shuffle_prompts(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair]:
    """Put the pairs of every prompt behind another one (control: what is left can be told without the prompt).

    The prompts are laid on a circle in a random order, and each takes the place of the one before it: none keeps its
    own, and pairs that shared a prompt still do. Which prompt follows which depends on the seed and the prompts only.
    Raises UserError for pairs of a single prompt.
    """
    prompts = {p.cluster: p.prompt for p in pairs}
    order = sorted(prompts)
    if len(order) < 2:
        raise UserError(f"data.shuffled_prompts needs pairs of at least 2 prompts, got {len(order)}")
    random.Random(f"{seed}/prompts").shuffle(order)
    after = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [replace(p, prompt=prompts[after[p.cluster]], cluster=after[p.cluster]) for p in pairs]


def shuffle_labels(pairs: Sequence[PreferencePair], fraction: float, seed: int) -> list[PreferencePair]:
    """Swap chosen and rejected in each pair with probability ``fraction`` (control: at 0.5 the labels are random).

    Whether a pair is swapped depends on the seed and its id only, not on the other pairs.
    """

    def swapped(pair: PreferencePair) -> bool:
        return random.Random(f"{seed}/labels/{pair.id}").random() < fraction

    return [replace(p, chosen=p.rejected, rejected=p.chosen) if swapped(p) else p for p in pairs]
