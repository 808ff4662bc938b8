"""The scoring systems, each loaded, warmed up and timed on the same token ids."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.flops import scoring_flops, shape_of, synchronise
from benchmarks.memory import peak_bytes, reset_peak
from benchmarks.models import load_model
from benchmarks.options import ScoreOptions
from benchmarks.pairs import load_prompts, useful_tokens, with_responses
from innerpo.data.tokens import PromptItem
from innerpo.errors import UserError
from innerpo.evaluation.score import score_items
from innerpo.model.base import Base
from innerpo.model.forward.layout import choose_layout

Scorer = Callable[[Sequence[PromptItem]], list[float]]


def measure(system: str, n_responses: int, options: ScoreOptions) -> dict[str, Any]:
    """Time one system on all requests, after one pass over the first batch; return the log-probabilities too."""
    base = load_model(options)
    items = with_responses(load_prompts(options, base.tokenizer, options.prompts), n_responses)
    shape = shape_of(base.model)
    size = options.batch_size
    score = innerpo_scorer(base, items, size) if system == "innerpo" else lm_eval_scorer(base, size)
    longest = sorted(items, key=lambda item: -item.n_tokens)
    score(longest[: max(1, options.batch_size // n_responses)])
    synchronise()
    reset_peak()
    before = time.perf_counter()
    logps = score(items)
    synchronise()
    seconds = time.perf_counter() - before
    return {
        "seconds": seconds,
        "peak_bytes": peak_bytes(),
        "tokens": useful_tokens(items),
        "flops": scoring_flops(shape, items),
        "logps": logps,
    }


def innerpo_scorer(base: Base, items: Sequence[PromptItem], batch_size: int) -> Scorer:
    """This project's ``score_items``, which runs each prompt once with all its responses."""
    layout = choose_layout(base.model, items, base.pad_id).layout
    prompts = max(1, batch_size // len(items[0].responses))

    def score(some: Sequence[PromptItem]) -> list[float]:
        out = score_items(base.model, some, layout, base.pad_id, batch_size=prompts, request=None, what="the requests")
        return [float(x) for x in out.logps]

    return score


def lm_eval_scorer(base: Base, batch_size: int) -> Scorer:
    """lm-eval's Hugging Face backend on the same model, a row a response."""
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError(f"lm-evaluation-harness cannot be imported ({error}); pip install -e '.[bench]'") from error
    harness = HFLM(pretrained=base.model, tokenizer=base.tokenizer, backend="causal", batch_size=batch_size)

    def score(some: Sequence[PromptItem]) -> list[float]:
        requests = [(("", ""), list(item.prompt), list(response)) for item in some for response in item.responses]
        return [logp for logp, _ in harness._loglikelihood_tokens(requests, disable_tqdm=True)]

    return score
