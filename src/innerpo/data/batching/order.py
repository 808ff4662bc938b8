"""Grouping of items into batches: by similar length, and within a batch by common prompt prefix."""

from collections.abc import Sequence

from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return indices in batches of similar length, longest first, so that the first batch needs the most memory."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def token_batches(rows: Sequence[tuple[int, int]], most_tokens: int, layout: Layout) -> list[list[int]]:
    """Return indices in the fewest batches of at most ``most_tokens`` padded tokens (0 = one batch), evenly filled.

    Batches hold items of similar length, longest first. Each item is given as (number of rows, tokens of its longest
    row), see ``rows_of``. An item with more than ``most_tokens`` tokens is a batch of its own. The packed layout pads
    only the end of its one row; that padding is not counted.
    """
    packed = layout == "packed"
    found = _filled(rows, most_tokens, packed)
    low, high = 1, most_tokens
    while low < high:  # bisect for the lowest limit that needs no more batches: it fills them most evenly
        limit = (low + high) // 2
        if len(_filled(rows, limit, packed)) > len(found):
            low = limit + 1
        else:
            high = limit
    return _filled(rows, high, packed)


def _filled(rows: Sequence[tuple[int, int]], limit: int, packed: bool) -> list[list[int]]:
    batches: list[list[int]] = []
    used = 0  # rows in the last batch (packed: tokens)
    for i in sorted(range(len(rows)), key=lambda i: (-rows[i][1], i)):
        n = rows[i][1] if packed else rows[i][0]
        if batches and (not limit or (used + n) * (1 if packed else rows[batches[-1][0]][1]) <= limit):
            batches[-1].append(i)
            used += n
        else:
            batches.append([i])
            used = n
    return batches


def rows_of(item: PromptItem, layout: Layout) -> tuple[int, int]:
    """Return how many rows an item takes in a layout, and the tokens of its longest row."""
    prompt, responses = len(item.prompt), [len(r) for r in item.responses]
    return (1, prompt + sum(responses)) if layout != "concatenated" else (len(responses), prompt + max(responses))


def by_prompt(items: Sequence[PromptItem], indices: Sequence[int]) -> list[int]:
    """Sort indices by the items' prompt ids, so that items with a common prompt prefix are neighbours."""
    return sorted(indices, key=lambda i: items[i].prompt)
