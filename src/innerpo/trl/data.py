"""Data sets as TRL takes them, to tokenised pairs: the token ids of TRL's DPOTrainer, cut at the end like there."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from innerpo.data.divergence import with_divergence_of
from innerpo.data.pairs import PreferencePair
from innerpo.data.sources.parse import BadRowError, pair_from_row
from innerpo.data.tokens import PairTokenizer, PromptItem
from innerpo.errors import UserError
from innerpo.model.context import max_positions

log = logging.getLogger(__name__)

UNREAD = {
    "image": "pairs are text",
    "images": "pairs are text",
    "tools": "write them into the prompt",
    "chat_template_kwargs": "set them in the tokenizer's chat template",
}
"""Columns that change what TRL trains on and that are not read here."""


class TrlTokenizer(PairTokenizer):
    """Tokenises as TRL 1.16 does: chat messages end as their template ends them, plain text with EOS."""

    def _close_turn(self, ids: list[int]) -> list[int]:
        return ids


def pairs_of(rows: Any, name: str, on_bad_row: str) -> list[PreferencePair]:
    """Return the pairs of a data set. ``name`` is the argument that it came as, for messages.

    Raises UserError for a data set without length, for columns that would be ignored and, unless ``on_bad_row`` is
    "skip", for a row that is no pair.
    """
    if not hasattr(rows, "__len__") or isinstance(rows, Mapping | str):
        raise UserError(
            f"{name} must be a datasets.Dataset or a list of rows, got {type(rows).__name__}; of a stream take a list: "
            "list(stream.take(1000))"
        )
    pairs, bad = list[PreferencePair](), list[str]()
    for i, row in enumerate(rows):
        for column, instead in UNREAD.items():
            if isinstance(row, Mapping) and row.get(column):
                raise UserError(f"{name}: the column {column!r} is not supported; {instead}")
        try:
            pairs.append(pair_from_row(row, f"{name}/{i}", name, "train"))
        except BadRowError as error:
            bad.append(f"{name}, row {i}: {error}")
            if on_bad_row == "error":
                raise UserError(f"{bad[0]} (on_bad_row='skip' leaves such rows out)") from error
    if bad:
        log.warning(f"{name}: {len(bad)} rows left out; the first: {bad[0]}")
    return pairs


def items_of(
    pairs: Sequence[PreferencePair], tokenizer: Any, max_length: int | None, name: str, per_prompt: bool = False
) -> list[PromptItem]:
    """Tokenise pairs; cut prompt and response together to ``max_length`` tokens, on the right.

    Pairs are left out where the prompt alone is that long, as in TRL, and where nothing is left in which the two
    responses differ. With ``per_prompt``, the divergence of a pair is that of all responses of its prompt
    (divergence.py). Raises UserError where no pair remains.
    """
    tokens = TrlTokenizer(tokenizer, sys.maxsize, sys.maxsize)
    whole = tokens.training_items(pairs)
    counts = tokens.report.line(sys.maxsize, sys.maxsize)
    if per_prompt:
        whole = with_divergence_of(whole, tokens.scoring_items(pairs))
    items = whole if max_length is None else [cut for item in whole if (cut := _cut(item, max_length)) is not None]
    n_cut = sum(_longest(item) > (max_length or sys.maxsize) for item in whole)
    log.info(f"{name}: {len(items)} pairs; {counts}; {n_cut} longer than {max_length} tokens")
    if len(items) < len(whole):
        log.warning(f"{name}: {len(whole) - len(items)} pairs left out: nothing to learn within {max_length} tokens")
    if not items:
        raise UserError(f"{name} has no pair left to train on")
    return items


def check_length(items: Sequence[PromptItem], model: Any, name: str) -> None:
    """Raise UserError where a prompt with its response is longer than the model's positions."""
    limit = max_positions(model)
    n = sum(_longest(item) > limit for item in items)
    if n:
        raise UserError(
            f"{n} of {len(items)} pairs of {name} are longer than the model's {limit:.0f} positions; "
            f"max_length={limit:.0f} cuts them"
        )


def _longest(item: PromptItem) -> int:
    return len(item.prompt) + max(map(len, item.responses))


def _cut(item: PromptItem, max_length: int) -> PromptItem | None:
    room = max_length - len(item.prompt)
    if room <= 0:
        return None
    responses = tuple(response[:room] for response in item.responses)
    return replace(item, responses=responses) if responses[0] != responses[1] else None
