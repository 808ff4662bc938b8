"""Where the responses of a prompt diverge, which the pooling ``first_divergence`` starts from.

It is defined per prompt, over all its responses in the data set. A response then has one pooled state and one inner
reward, whichever responses it is compared with, and the same in training on one negative as in scoring all of them.
"""

from collections.abc import Sequence
from dataclasses import replace

from innerpo.data.tokens import PromptItem


def first_divergence(item: PromptItem) -> int:
    """Return the index within the responses of the first token at which those of the item's prompt differ.

    Among the item's own responses, unless ``with_divergence_of`` has set it. Where one response is the beginning of all
    others, it is that response's length.
    """
    if item.divergence is not None:
        return item.divergence
    shortest = min(map(len, item.responses))
    return next((t for t in range(shortest) if len({r[t] for r in item.responses}) > 1), shortest)


def with_divergence_of(items: Sequence[PromptItem], prompts: Sequence[PromptItem]) -> list[PromptItem]:
    """Return items whose divergence is that of their whole prompt: one item of ``prompts`` with all its responses.

    Positions are compared from the beginning of the prompt, since a prompt's last token may belong to the responses of
    one item and to the prompt of another (tokens.py). Items whose prompt is not in ``prompts`` are left as they are.
    """
    position = {whole.cluster: len(whole.prompt) + first_divergence(whole) for whole in prompts}
    return [
        replace(item, divergence=max(0, position[item.cluster] - len(item.prompt)))
        if item.cluster in position
        else item
        for item in items
    ]
