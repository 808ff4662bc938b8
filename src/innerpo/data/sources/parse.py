"""One row to one pair: the formats that TRL documents, checked, with what is wrong said in words.

Text or chat messages; the prompt explicit (its own column) or implicit (what both responses begin with).
"""

from collections.abc import Mapping
from typing import Any

from innerpo.data.pairs import BadRows, Message, PreferencePair, Text, cluster_of
from innerpo.errors import UserError


class BadRowError(Exception):
    """A row that cannot become a pair; its text is the reason."""


def leave_out(where: str, reason: str, on_bad_row: str, bad: BadRows) -> None:
    """Stop at a bad row, or note it and go on, as the config says."""
    line = f"{where}: {reason}"
    if on_bad_row == "error":
        raise UserError(f"{line} (data.on_bad_row=skip leaves such rows out)")
    bad.reasons.append(line)


def pair_from_row(row: Any, id: str, source: str, split: str) -> PreferencePair:
    """Turn a row with chosen, rejected and perhaps prompt into a checked pair."""
    if not isinstance(row, Mapping):
        raise BadRowError(f"is not a record with named columns but {_kind(row)}")
    for column in ("chosen", "rejected"):
        if column not in row:
            raise BadRowError(f"has no column {column!r} (columns: {', '.join(map(str, row)) or 'none'})")
    chosen, rejected = _text(row["chosen"], "chosen"), _text(row["rejected"], "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadRowError("one of chosen and rejected is text and the other chat messages")
    raw = row.get("prompt")
    prompt = None if raw is None else _text(raw, "prompt")
    return make_pair(*split_prompt(prompt, chosen, rejected), id=id, source=source, split=split)


def make_pair(prompt: Text, chosen: Text, rejected: Text, *, id: str, source: str, split: str) -> PreferencePair:
    """Check that both responses say something and differ, and make the pair."""
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if is_empty(response):
            raise BadRowError(f"{name} is empty")
    if chosen == rejected:
        raise BadRowError("chosen and rejected are identical")
    return PreferencePair(prompt, chosen, rejected, id, source, split, cluster_of(prompt))


def split_prompt(prompt: Text | None, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Return (prompt, chosen, rejected), the prompt taken from the responses where it is implicit."""
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
    # Published chat sets often repeat the conversation in the responses, beside a prompt column in text or messages.
    if isinstance(prompt, tuple) and not (_starts(chosen, prompt) and _starts(rejected, prompt)):
        return prompt, chosen, rejected
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n] == rejected[n]:
        n += 1
    if n == 0:
        raise BadRowError(_no_root(chosen, rejected, "leading messages"))
    return chosen[:n], chosen[n:], rejected[n:]


def common_root(a: str, b: str) -> str:
    """Return the longest common beginning that ends with a whole word and leaves both texts a remainder.

    The white space after the word stays with the remainders, so that root + remainder is the text unchanged.
    """
    limit = min(len(a), len(b))
    n = next((i for i in range(limit) if a[i] != b[i]), limit)
    for i in range(min(n, limit - 1), 0, -1):
        if a[i].isspace() and b[i].isspace() and not a[i - 1].isspace() and a[i:].strip() and b[i:].strip():
            return a[:i]
    return ""


def is_empty(response: Text) -> bool:
    """Whether a response has nothing to read in it."""
    parts = [response] if isinstance(response, str) else [m["content"] for m in response]
    return not any(part.strip() for part in parts)


def divided(pair: PreferencePair) -> str:
    """Return "test" for a tenth of all prompts and "train" for the others: the rule where data have one split.

    It depends on the prompt alone, so a prompt never stands in both and more rows move no other row.
    """
    return "test" if int(pair.cluster, 16) % 10 == 0 else "train"


def _text(value: Any, column: str) -> Text:
    """Return text as it is and messages as a tuple of role and content; complain of anything else."""
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)):
        raise BadRowError(f"{column} is {_kind(value)}, not text or chat messages")
    for message in value:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise BadRowError(f"{column} holds a message without role and content as text: {message!r:.80}")
    messages: tuple[Message, ...] = tuple({"role": m["role"], "content": m["content"]} for m in value)
    return messages


def _starts(messages: tuple[Message, ...], prompt: tuple[Message, ...]) -> bool:
    return bool(prompt) and messages[: len(prompt)] == prompt


def _no_root(chosen: Text, rejected: Text, what: str) -> str:
    """Name the plainer fault behind a missing common beginning, where there is one."""
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if is_empty(response):
            return f"{name} is empty"
    if chosen == rejected:
        return "chosen and rejected are identical"
    return f"has no prompt, and chosen and rejected share no {what}"


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__
