"""Metrics of an exported task, as lm-evaluation-harness calls them.

The source of this module is copied beside every exported task, as ``innerpo_metrics.py``. It needs nothing of InnerPO.

A document's choices are the responses of a prompt. The harness counts white space at the end of a context as the
beginning of the continuation; where a prompt ends with some, every choice begins with it, the last choice is nothing
else, and its log-likelihood is subtracted from the others. What remains is the log-probability of the response.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

METRICS = ("acc", "acc_norm", "acc_mean")


def dataset(file: str, **_: Any) -> dict[str, Any]:
    """Return the documents of a task, from the file of that name beside this one, as its split ``test``."""
    from datasets import Dataset

    with (Path(__file__).parent / file).open(encoding="utf-8") as lines:
        return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def response_logps(doc: dict[str, Any], results: Sequence[Sequence[Any]]) -> list[float]:
    """Return the log-probability of each response, in nats; a result is (log-likelihood, is greedy) of a choice."""
    logps = [float(result[0]) for result in results]
    if not doc["head"]:
        return logps
    *responses, head = logps
    return [logp - head for logp in responses]


def process_results(doc: dict[str, Any], results: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return the metrics of one document.

    ``acc`` ranks the responses by summed log-probability, ``acc_norm`` by log-probability per character, ``acc_mean``
    per token: 1 where the best response comes first, 1/k where k share the first place. ``pair_...`` are (pairs ranked
    rightly, pairs), a tie counted as one half.
    """
    logps = response_logps(doc, results)
    sizes = {"acc": [1] * len(logps), "acc_norm": doc["characters"], "acc_mean": doc["tokens"]}
    found: dict[str, Any] = {}
    for metric in METRICS:
        scores = [logp / size for logp, size in zip(logps, sizes[metric], strict=True)]
        first = [i for i, score in enumerate(scores) if score == max(scores)]
        found[metric] = (doc["target"] in first) / len(first)
        right = [_outcome(scores[better], scores[worse]) for better, worse in doc["pairs"]]
        found[f"pair_{metric}"] = (sum(right), len(right))
    return found


def over_pairs(items: Sequence[tuple[float, int]]) -> float:
    """Return the share of pairs that are ranked rightly, over all documents."""
    return sum(right for right, _ in items) / sum(pairs for _, pairs in items)


def _outcome(better: float, worse: float) -> float:
    return float(better > worse) + float(better == worse) / 2
