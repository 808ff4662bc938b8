"""Rows to preference pairs: the formats that TRL documents, with a reason for every row that does not fit.

Text ("standard") or chat messages ("conversational"), with an explicit prompt (its own column) or an implicit one (the
common beginning of both responses).
"""

from collections.abc import Mapping
from typing import Any

from innerpo.data.pairs import BadRows, Message, PreferencePair, Text, cluster_of
from innerpo.errors import UserError

# What TRL passes on to the chat template beside role and content. A row that has one would lose it here without a word.
NOT_APPLIED = ("tools", "chat_template_kwargs")
NOT_APPLIED_IN_MESSAGES = ("tool_calls", "reasoning_content", "thinking")


class BadRowError(Exception):
    """A row that cannot be made into a pair; the message is the reason."""


def leave_out(where: str, reason: str, on_bad_row: str, bad: BadRows) -> None:
    """Record a bad row and return, or raise UserError if ``on_bad_row`` is "error"."""
    line = f"{where}: {reason}"
    if on_bad_row == "error":
        raise UserError(f"{line} (data.on_bad_row=skip leaves such rows out)")
    bad.reasons.append(line)


def pair_from_row(row: Any, id: str, source: str, split: str) -> PreferencePair:
    """Return the pair of a row with chosen, rejected and perhaps prompt; raise BadRowError if it has none."""
    if not isinstance(row, Mapping):
        raise BadRowError(f"is not a record with named columns but {_kind(row)}")
    for column in ("chosen", "rejected"):
        if column not in row:
            raise BadRowError(f"has no column {column!r} (columns: {', '.join(map(str, row)) or 'none'})")
    chosen, rejected = _text(row["chosen"], "chosen"), _text(row["rejected"], "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadRowError("one of chosen and rejected is text and the other chat messages")
    for column in NOT_APPLIED:
        if row.get(column):
            raise BadRowError(f"has {column}, which InnerPO does not pass on to the chat template")
    raw = row.get("prompt")
    prompt = None if raw is None or raw == [] else _text(raw, "prompt")
    return make_pair(*split_prompt(prompt, chosen, rejected), id=id, source=source, split=split)


def make_pair(prompt: Text, chosen: Text, rejected: Text, *, id: str, source: str, split: str) -> PreferencePair:
    """Return a pair after checking its responses; raise BadRowError otherwise.

    Responses must be non-empty and differ. In chat data each must be one assistant turn: every token of a response
    is a completion token, so a user turn in it would be trained and scored as the model's own text.
    """
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if is_empty(response):
            raise BadRowError(f"{name} is empty")
        roles = ["assistant"] if isinstance(response, str) else [m["role"] for m in response]
        if roles != ["assistant"]:
            turns = ", ".join(roles)
            raise BadRowError(f"{name} must be one assistant turn after the prompt, but its turns are: {turns}")
    if chosen == rejected:
        raise BadRowError("chosen and rejected are identical")
    for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not is_whole(text):
            raise BadRowError(f"{name} holds half of a surrogate pair: it was cut in the midst of a character")
    return PreferencePair(prompt, chosen, rejected, id, source, split, cluster_of(prompt))


def split_prompt(prompt: Text | None, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Return (prompt, chosen, rejected); an implicit prompt is the common beginning of both responses."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            root = common_root(chosen, rejected)
            if not root:
                raise BadRowError(_no_root(chosen, rejected, "leading words"))
            return root, chosen[len(root) :], rejected[len(root) :]
        if not isinstance(prompt, str):
            raise BadRowError("prompt is chat messages but the responses are text")
        return prompt, chosen, rejected
    assert isinstance(chosen, tuple)
    assert isinstance(rejected, tuple)
    # Published chat data often repeat the conversation in the responses, next to a prompt column of text or messages.
    if isinstance(prompt, tuple) and not (_starts(chosen, prompt) and _starts(rejected, prompt)):
        return prompt, chosen, rejected
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n] == rejected[n]:
        n += 1
    if n == 0 and prompt is not None:
        raise BadRowError("prompt is text, but the responses are chat messages that do not begin with it")
    if n == 0:
        raise BadRowError(_no_root(chosen, rejected, "leading messages"))
    return chosen[:n], chosen[n:], rejected[n:]


def common_root(a: str, b: str) -> str:
    """Return the longest common beginning that ends at a word boundary and leaves both texts a non-empty remainder.

    The white space after it belongs to the remainders, so that root + remainder is the unchanged text.
    """
    limit = min(len(a), len(b))
    n = next((i for i in range(limit) if a[i] != b[i]), limit)
    for i in range(min(n, limit - 1), 0, -1):
        if a[i].isspace() and b[i].isspace() and not a[i - 1].isspace() and a[i:].strip() and b[i:].strip():
            return a[:i]
    return ""


def is_empty(response: Text) -> bool:
    """Return whether a response is empty or white space only."""
    parts = [response] if isinstance(response, str) else [m["content"] for m in response]
    return not any(part.strip() for part in parts)


def is_whole(text: Text) -> bool:
    """Return whether a text has characters only, and no half of a surrogate pair, which is none."""
    parts = [text] if isinstance(text, str) else [part for m in text for part in (m["role"], m["content"])]
    try:
        "".join(parts).encode()
    except UnicodeEncodeError:
        return False
    return True


def divided(pair: PreferencePair) -> str:
    """Return "test" for a tenth of all prompts and "train" for the others; used for data with a single split.

    The result depends on the prompt alone: no prompt is in both splits, and added rows change no other row's split.
    """
    return "test" if int(pair.cluster, 16) % 10 == 0 else "train"


def _text(value: Any, column: str) -> Text:
    """Return text unchanged and messages as a tuple of role and content; raise BadRowError for anything else."""
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)):
        raise BadRowError(f"{column} is {_kind(value)}, not text or chat messages")
    for message in value:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise BadRowError(f"{column} holds a message without role and content as text: {message!r:.80}")
        for key in NOT_APPLIED_IN_MESSAGES:
            if message.get(key):
                raise BadRowError(
                    f"{column} has a message with {key}, which InnerPO does not pass on to the chat template"
                )
    messages: tuple[Message, ...] = tuple({"role": m["role"], "content": m["content"]} for m in value)
    return messages


def _starts(messages: tuple[Message, ...], prompt: tuple[Message, ...]) -> bool:
    return bool(prompt) and messages[: len(prompt)] == prompt


def _no_root(chosen: Text, rejected: Text, what: str) -> str:
    """Return why there is no common beginning; an empty or identical response is the more useful reason."""
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if is_empty(response):
            return f"{name} is empty"
    if chosen == rejected:
        return "chosen and rejected are identical"
    return f"has no prompt, and chosen and rejected share no {what}"


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__
