"""Which items run together: batches of like length, by number or by tokens, alike prompts next to one another."""

from collections.abc import Sequence

from innerpo.data.batching.row_plan import Layout
from innerpo.data.tokens import PromptItem


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of like length, longest first (so that memory runs out at once or not at all)."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def token_batches(rows: Sequence[tuple[int, int]], most_tokens: int, layout: Layout) -> list[list[int]]:
    """Indices in as few batches of at most ``most_tokens`` padded tokens as can be (0 = one), all about as large.

    Of like length, longest first. An item is given as (how many rows it takes, the length of its longest); one that is
    larger than ``most_tokens`` by itself is a batch of its own. In the packed layout only the end of its row is padded,
    and not counted.
    """
    packed = layout == "packed"
    found = _filled(rows, most_tokens, packed)
    low, high = 1, most_tokens
    while low < high:  # the lowest limit that needs no more batches fills them evenly
        limit = (low + high) // 2
        if len(_filled(rows, limit, packed)) > len(found):
            low = limit + 1
        else:
            high = limit
    return _filled(rows, high, packed)


def _filled(rows: Sequence[tuple[int, int]], limit: int, packed: bool) -> list[list[int]]:
    batches: list[list[int]] = []
    used = 0  # rows of the last batch; tokens, where they are packed
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
    """Return how many rows an item takes in a layout, and the tokens of its longest."""
    prompt, responses = len(item.prompt), [len(r) for r in item.responses]
    return (1, prompt + sum(responses)) if layout != "concatenated" else (len(responses), prompt + max(responses))


def by_prompt(items: Sequence[PromptItem], indices: Sequence[int]) -> list[int]:
    """Put indices of items in the order of their prompts, so that those which begin alike can share a row."""
    return sorted(indices, key=lambda i: items[i].prompt)
