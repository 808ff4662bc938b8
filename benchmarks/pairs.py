"""The pairs that all systems get: those that no system has to cut, as text and as this project's token ids."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.options import Options
from innerpo.config.data import DataConfig
from innerpo.data.pairs import PreferencePair, choose_negatives, cluster_of
from innerpo.data.sources import load_pairs
from innerpo.data.tokens import PairTokenizer, PromptItem
from innerpo.errors import UserError

SYNTHETIC = "synthetic:"
NO_LIMIT = 1 << 30


def load_workload(options: Options, tokenizer: Any, n: int) -> tuple[list[PreferencePair], list[PromptItem]]:
    """Return the first ``n`` pairs that fit the limits, one a prompt, as text and as token ids.

    Raises UserError where there are fewer.
    """
    pairs = choose_negatives(_load(options, tokenizer, n), "one", 0)
    kept: list[tuple[PreferencePair, PromptItem]] = []
    too_long = 0
    for pair in pairs:
        items = PairTokenizer(tokenizer, NO_LIMIT, NO_LIMIT).training_items([pair])
        fits = items and _fits(items[0], options)
        too_long += not fits
        if fits:
            kept.append((pair, items[0]))
        if len(kept) == n:
            return [p for p, _ in kept], [i for _, i in kept]
    raise _too_few(options, len(kept), too_long, n)


def load_prompts(options: Options, tokenizer: Any, n: int) -> list[PromptItem]:
    """Return the first ``n`` prompts that fit the limits, each with all responses that the data have of it.

    Raises UserError where there are fewer.
    """
    items = PairTokenizer(tokenizer, NO_LIMIT, NO_LIMIT).scoring_items(_load(options, tokenizer, n))
    kept = [item for item in items if _fits(item, options)]
    if len(kept) < n:
        raise _too_few(options, len(kept), len(items) - len(kept), n)
    return kept[:n]


def _too_few(options: Options, found: int, too_long: int, n: int) -> UserError:
    return UserError(
        f"{options.dataset} has {found} prompts within the limits of tokens ({too_long} do not fit), and {n} are "
        "needed; fewer --steps, --pairs or --prompts need fewer"
    )


def _load(options: Options, tokenizer: Any, n: int) -> list[PreferencePair]:
    if options.dataset.startswith(SYNTHETIC):
        return synthetic_pairs(tokenizer, _tokens_of(options.dataset), n)
    try:
        return load_pairs(options.dataset, "train", DataConfig(dataset=options.dataset, genies_dir=options.genies_dir))
    except UserError as error:
        raise UserError(
            f"{error} (here the options are --genies-dir and --dataset; --dataset=embedded:longer needs no data)"
        ) from error


def _fits(item: PromptItem, options: Options) -> bool:
    longest = max(map(len, item.responses))
    return len(item.prompt) <= options.max_prompt_tokens and longest <= options.max_response_tokens


def useful_tokens(items: Sequence[PromptItem]) -> int:
    """Tokens that a loss on these pairs needs: each prompt once, each response once (with EOS), no padding."""
    return sum(item.n_tokens for item in items)


def with_responses(items: Sequence[PromptItem], n: int) -> list[PromptItem]:
    """Give every item ``n`` responses: its own, then (where it has fewer) those of the items after it, none twice."""
    found = []
    for i, item in enumerate(items):
        responses = list(item.responses)
        for other in (*items[i + 1 :], *items[:i]):
            responses += [r for r in other.responses if r not in responses]
            if len(responses) >= n:
                break
        if len(responses) < n:
            raise UserError(f"the data have too few different responses for {n} a prompt")
        pair = (0, 1, item.pairs[0][2])
        found.append(replace(item, responses=tuple(responses[:n]), characters=(0,) * n, pairs=(pair,)))
    return found


def synthetic_pairs(tokenizer: Any, tokens: int, n: int) -> list[PreferencePair]:
    """Return pairs of random words: prompt and one response are ``tokens`` tokens in all, half of them each.

    The words are those that the tokenizer has as one token each, also among others; the counts are checked.
    """
    n_prompt = tokens // 2
    n_words = tokens - n_prompt - 1  # and EOS
    words = _one_token_words(tokenizer)
    rng = random.Random(0)

    def text(count: int) -> str:
        return "".join(rng.choices(words, k=count))

    pairs = []
    for i in range(n):
        prompt, chosen, rejected = text(n_prompt), text(n_words), text(n_words)
        while rejected == chosen:
            rejected = text(n_words)
        pairs.append(
            PreferencePair(
                prompt, chosen, rejected, f"{SYNTHETIC}{tokens}/{i}", "synthetic", "train", cluster_of(prompt)
            )
        )
    for item in PairTokenizer(tokenizer, NO_LIMIT, NO_LIMIT).training_items(pairs):
        if any(len(item.prompt) + len(r) != tokens for r in item.responses):
            raise UserError(f"the tokenizer {tokenizer.name_or_path!r} joins or splits synthetic words; use real data")
    return pairs


def _tokens_of(name: str) -> int:
    count = name.removeprefix(SYNTHETIC)
    if not count.isdigit() or int(count) < 6:
        raise UserError(f"{name!r} is no data set; write synthetic:TOKENS with at least 6, e.g. synthetic:256")
    return int(count)


def _one_token_words(tokenizer: Any, wanted: int = 200) -> list[str]:
    """Words with the space before them, as many as wanted or as there are, in a seeded order of the vocabulary."""
    order = list(range(len(tokenizer)))
    random.Random(0).shuffle(order)
    found: list[str] = []
    for token in order:
        word = tokenizer.decode([token])
        if word[:1] == " " and word[1:].isascii() and word[1:].isalpha() and _is_token(tokenizer, word, token):
            found.append(word)
        if len(found) == wanted:
            break
    if len(found) < 2:
        raise UserError(f"the tokenizer {tokenizer.name_or_path!r} has no words of one token; use real data")
    return found


def _is_token(tokenizer: Any, word: str, token: int) -> bool:
    return list(tokenizer(word * 2, add_special_tokens=False)["input_ids"]) == [token, token]
