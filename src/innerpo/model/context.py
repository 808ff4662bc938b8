"""The longest text that a model can read, and a check of a run's items against it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.model.forward.blocks import text_config

# Fields that hold the maximum. transformers maps the names of families (n_positions, n_ctx) to the first.
FIELDS = ("max_position_embeddings", "max_seq_len", "max_sequence_length")
# Rotary scalings whose factor is contained in ``max_position_embeddings`` already.
CONTAINED = ("default", "longrope", "llama3", "su", "mrope", "proportional")


def max_positions(model: Any) -> float:
    """Return the number of positions that a model was made for; infinity if nothing limits it.

    Learned and tabulated positions end there. Rotary positions can be computed beyond, but the model never met them;
    where the config scales them (linear, dynamic, YaRN), the scaled length counts. ALiBi as in Bloom and recurrent
    models have no limit (MPT's ALiBi is a table of ``max_seq_len`` positions).
    """
    config = text_config(model)
    found = next((n for f in FIELDS if isinstance(n := getattr(config, f, None), int) and n > 0), None)
    if found is None or getattr(config, "alibi", False):
        return math.inf
    return max([float(found), *(_scaled(rope, found) for rope in _ropes(config))])


def _ropes(config: Any) -> list[Mapping[str, Any]]:
    """Return the rotary parameters of a config: one set, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(rope, Mapping):
        return []
    nested = [r for r in rope.values() if isinstance(r, Mapping)]
    return nested or [rope]


def _scaled(rope: Mapping[str, Any], positions: int) -> float:
    kind, factor = rope.get("rope_type", rope.get("type", "default")), rope.get("factor")
    if kind in CONTAINED or not isinstance(factor, int | float):
        return 0.0
    return float(factor * (rope.get("original_max_position_embeddings") or positions))


def check_context(model: Any, items: Sequence[PromptItem], what: str = "the data") -> None:
    """Raise UserError if a prompt with its longest response does not fit into the model's positions.

    In every layout the positions of a response count on from its prompt, so other responses of the row do not matter.
    The message says how many items are too long, and which limits of tokens would fit.
    """
    limit = max_positions(model)
    needed = [len(item.prompt) + max(map(len, item.responses)) for item in items]
    too_long = [i for i, n in enumerate(needed) if n > limit]
    if not too_long:
        return
    longest = items[max(too_long, key=lambda i: needed[i])]
    prompt, response = len(longest.prompt), max(map(len, longest.responses))
    for_responses = min(max(len(r) for i in items for r in i.responses), int(limit) // 2)
    raise UserError(
        f"{len(too_long)} of {len(items)} items of {what} are longer than the model's {limit:.0f} positions: the "
        f"longest has {prompt} prompt and {response} response tokens; data.max_prompt_tokens="
        f"{int(limit) - for_responses} with data.max_response_tokens={for_responses} would fit"
    )
