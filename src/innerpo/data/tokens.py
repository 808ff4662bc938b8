"""Tokenisation of pairs: one prompt shared by all its responses, each response closed by EOS, truncations counted."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from innerpo.data.pairs import PreferencePair, Text, cluster_of, n_characters
from innerpo.errors import UserError

Ids = tuple[int, ...]

MEMO_TEXTS = 100_000
"""Texts whose ids are remembered, so that a text in the training and the evaluation sets is tokenised once."""


@dataclass(frozen=True)
class PromptItem:
    """A prompt and its responses as token ids.

    ``pairs`` holds (index of the chosen response, index of the rejected response, pair id). A training item has one
    pair, (0, 1). ``characters`` holds the number of characters of each response's text. ``divergence`` is the index of
    the first token at which the responses of the prompt differ, those that are not in the item included; None: among
    the item's own responses (divergence.py).
    """

    prompt: Ids
    responses: tuple[Ids, ...]
    characters: tuple[int, ...]
    pairs: tuple[tuple[int, int, str], ...]
    cluster: str
    divergence: int | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt and of all responses together: the length of the item laid out as one row."""
        return len(self.prompt) + sum(len(r) for r in self.responses)

    @property
    def longest_sequence(self) -> int:
        """Tokens of the prompt and its longest response: the highest position id is one less, in every layout."""
        return len(self.prompt) + max(len(r) for r in self.responses)


def hash_of_items(items: Iterable[PromptItem]) -> str:
    """Return 24 hex digits that identify the token ids of items: prompts, responses, and their order.

    Pair ids, clusters and character counts are not part of it: the model's outputs do not depend on them.
    """
    digest = hashlib.sha256()
    for item in items:
        sequences = (item.prompt, *item.responses)
        digest.update(array("q", [len(sequences), *map(len, sequences)]))
        for ids in sequences:
            digest.update(array("q", ids))
    return digest.hexdigest()[:24]


@dataclass
class TokenReport:
    """Counts of what tokenisation truncated or dropped."""

    prompts: int = 0
    responses: int = 0
    prompts_cut: int = 0
    responses_cut: int = 0
    boundary_merged: int = 0
    started: int = 0
    dropped: int = 0

    def line(self, max_prompt: int, max_response: int) -> str:
        """Return the counts as one line of text; counts of 0 are left out."""
        counted = {
            f"prompts cut on the left to {max_prompt} tokens": self.prompts_cut,
            f"responses cut on the right to {max_response} tokens": self.responses_cut,
            "prompts end where tokens merge with the response": self.boundary_merged,
            "empty prompts given a start token": self.started,
            "pairs dropped as identical after the cut": self.dropped,
        }
        happened = [f"{n} {what}" for what, n in counted.items() if n]
        return f"{self.prompts} prompts, {self.responses} responses, {'; '.join(happened) or 'nothing cut or dropped'}"


class PairTokenizer:
    """Tokenises pairs with a limit each for prompts and responses; ``report`` counts what was truncated."""

    def __init__(
        self,
        tokenizer: Any,
        max_prompt_tokens: int,
        max_response_tokens: int,
        memo: dict[str, list[int]] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.memo: dict[str, list[int]] = {} if memo is None else memo
        self.max_prompt = max_prompt_tokens
        self.max_response = max_response_tokens
        self.report = TokenReport()
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        if tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer {tokenizer.name_or_path!r} has no EOS token to close a response with")

    def training_items(self, pairs: Iterable[PreferencePair]) -> list[PromptItem]:
        """Return one item per pair: the prompt with its chosen (0) and rejected (1) response."""
        items = (self._item(p.prompt, [p.chosen, p.rejected], [(0, 1, p.id)], p.cluster) for p in pairs)
        return [item for item in items if item.pairs]

    def scoring_items(self, pairs: Iterable[PreferencePair]) -> list[PromptItem]:
        """Return one item per prompt: each distinct response once, and all pairs as indices of responses."""
        groups: dict[str, list[PreferencePair]] = {}
        for pair in pairs:
            groups.setdefault(pair.cluster, []).append(pair)
        items = []
        for cluster, group in groups.items():
            responses: list[Text] = []
            for text in (t for p in group for t in (p.chosen, p.rejected)):
                if text not in responses:
                    responses.append(text)
            indexed = [(responses.index(p.chosen), responses.index(p.rejected), p.id) for p in group]
            items.append(self._item(group[0].prompt, responses, indexed, cluster))
        return [item for item in items if item.pairs]

    def text_item(self, text: str) -> PromptItem | None:
        """Return a text without labels as an item of one response and no pair; None where it has only one token.

        Its first token (or BOS) is the prompt, so that every other token is predicted. It is cut like a response.
        """
        ids = self._encode(text)
        prompt, response = ids[:1], ids[1 : 1 + self.max_response]
        if not response:
            return None
        return PromptItem(tuple(prompt), (tuple(response),), (len(text),), (), cluster_of(text))

    def generation_prompt(self, prompt: Text) -> tuple[Ids, int]:
        """Return the ids that a response to a prompt goes on from, cut to the limit, and the id that closes a response.

        For chat messages they end with the template's opening of an assistant turn.
        """
        answer: Text = "x" if isinstance(prompt, str) else ({"role": "assistant", "content": "x"},)
        try:
            close = self._shared_prompt(prompt, [answer])[1][0][-1]
        except TemplateError as error:
            raise UserError(f"the model's chat template refuses the messages of a prompt: {error}") from error
        ids = self._encode(prompt) or [self._start]
        return tuple(ids if len(ids) <= self.max_prompt else self._cut_left(ids)), close

    def _item(
        self, prompt: Text, responses: Sequence[Text], pairs: Sequence[tuple[int, int, str]], cluster: str
    ) -> PromptItem:
        try:
            prompt_ids, response_ids = self._shared_prompt(prompt, responses)
        except TemplateError as error:
            raise UserError(f"pair {pairs[0][2]}: the model's chat template refuses its messages: {error}") from error
        report = self.report
        report.prompts += 1
        report.responses += len(responses)
        if len(prompt_ids) > self.max_prompt:
            report.prompts_cut += 1
            prompt_ids = self._cut_left(prompt_ids)
        cut = [r[: self.max_response] for r in response_ids]
        report.responses_cut += sum(len(c) < len(r) for c, r in zip(cut, response_ids, strict=True))
        kept = tuple((c, r, i) for c, r, i in pairs if cut[c] != cut[r])
        report.dropped += len(pairs) - len(kept)
        return PromptItem(
            prompt=tuple(prompt_ids),
            responses=tuple(tuple(r) for r in cut),
            characters=tuple(map(self._characters, responses, response_ids, cut)),
            pairs=kept,
            cluster=cluster,
        )

    def _characters(self, response: Text, ids: Sequence[int], cut: Sequence[int]) -> int:
        """Number of characters of a response, of the part that is left where it was cut."""
        whole = n_characters(response)
        return whole if len(cut) == len(ids) else min(whole, len(self.tokenizer.decode(cut)))

    def _shared_prompt(self, prompt: Text, responses: Sequence[Text]) -> tuple[list[int], list[list[int]]]:
        """Return the prompt ids that all responses share, and the ids of each response.

        Prompt and response are tokenised together and split at the longest common prefix with the prompt tokenised
        alone, as TRL's DPOTrainer does. A token that merges prompt and response text belongs to the response.
        """
        alone = self._encode(prompt)
        together = [self._encode(prompt, r) for r in responses]
        n = min(common_prefix(alone, ids) for ids in together)
        self.report.boundary_merged += n < len(alone)
        close = self._close if isinstance(prompt, str) else self._close_turn
        prompt_ids, response_ids = alone[:n], [close(ids[n:]) for ids in together]
        if not prompt_ids:  # the first response token is predicted from the last prompt token, so there must be one
            self.report.started += 1
            prompt_ids = [self._start]
        return prompt_ids, response_ids

    @property
    def _start(self) -> int:
        """Token that stands where a prompt is empty: BOS, or EOS for a tokenizer without one."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return int(eos if bos is None else bos)

    def _encode(self, prompt: Text, response: Text | None = None) -> list[int]:
        """Return the ids of a text; of a text that was met before, without running the tokenizer again."""
        key = repr((prompt, response))
        if key not in self.memo:
            if len(self.memo) >= MEMO_TEXTS:
                self.memo.clear()
            self.memo[key] = self._encode_anew(prompt, response)
        return list(self.memo[key])

    def _encode_anew(self, prompt: Text, response: Text | None) -> list[int]:
        if isinstance(prompt, str) and isinstance(response, str | None):
            ids = list(self.tokenizer(prompt + (response or ""))["input_ids"])
            if response is None and ids and ids[-1] == self.tokenizer.eos_token_id and ids[:-1]:
                ids.pop()  # some tokenizers append EOS to every text; the prompt must not end with it
            return ids
        if isinstance(prompt, str) or isinstance(response, str):
            raise UserError("a pair mixes plain text with chat messages; prompt and responses must be alike")
        if not self.tokenizer.chat_template:
            raise UserError(
                f"the data are chat messages, but the tokenizer {self.tokenizer.name_or_path!r} has no chat template; "
                "give prompt, chosen and rejected as plain text, or choose an instruction-tuned model"
            )
        messages = [dict(m) for m in (*prompt, *(response or ()))]
        encoded = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=response is None, tokenize=True, return_dict=True
        )
        return list(encoded["input_ids"])

    def _close(self, ids: list[int]) -> list[int]:
        """End a response at its EOS: append one if there is none, drop white space that a template puts after it."""
        eos = self.tokenizer.eos_token_id
        if eos in ids:
            last = len(ids) - 1 - ids[::-1].index(eos)
            if not self.tokenizer.decode(ids[last + 1 :]).strip():
                return ids[: last + 1]
        return [*ids, eos]

    def _close_turn(self, ids: list[int]) -> list[int]:
        """End an assistant turn as its chat template does, with a special token that is EOS or another.

        White space after that token is dropped. EOS is appended only if the template ends a turn with no special token.
        """
        for last in range(len(ids) - 1, -1, -1):
            if ids[last] in self._special:
                return ids[: last + 1]
            if self.tokenizer.decode([ids[last]]).strip():
                break
        return [*ids, self.tokenizer.eos_token_id]

    def _cut_left(self, ids: list[int]) -> list[int]:
        """Keep the last tokens of a prompt, and its BOS token if it has one."""
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[0] == bos and self.max_prompt > 1:
            return [bos, *ids[-(self.max_prompt - 1) :]]
        return ids[-self.max_prompt :]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix of two token sequences."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
