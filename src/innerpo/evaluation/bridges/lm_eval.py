"""A split of a data set as a task of lm-evaluation-harness (0.4.13): YAML, jsonl, and the metrics beside them.

A document is a prompt with its responses as choices. Their texts are chosen so that the harness, which tokenises
context and continuation in its own way, scores the tokens that this project scores, EOS included; every document is
checked, and ``exact`` says whether it does. A task therefore belongs to a tokenizer.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innerpo.data.pairs import PreferencePair, Text
from innerpo.data.tokens import Ids, PairTokenizer, PromptItem
from innerpo.errors import UserError
from innerpo.evaluation.bridges import harness_metrics
from innerpo.evaluation.bridges.selection import Exported, file_name
from innerpo.files import write_text

log = logging.getLogger(__name__)

METRICS_MODULE = "innerpo_metrics"

YAML = """\
# {pairs} pairs of {prompts} prompts of {dataset} ({split}), for models with the tokenizer of {tokenizer}.
task: {task}
custom_dataset: !function {module}.dataset
dataset_kwargs:
  file: {task}.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: prompt
doc_to_choice: choices
doc_to_target: target
target_delimiter: ""
num_fewshot: 0
process_results: !function {module}.process_results
metric_list:
{metrics}
metadata:
  version: 1.0
"""


@dataclass(frozen=True)
class Choices:
    """A context and its continuations as texts; ``tokens`` counts what the harness scores of each but for the head.

    The head is white space at the end of a prompt, which the harness counts as part of every continuation; where there
    is one, it is the last continuation too.
    ``exact``: the harness scores the same tokens of the same sequence as this project.
    """

    context: str
    continuations: tuple[str, ...]
    tokens: tuple[int, ...]
    head: bool
    exact: bool


def export_task(
    dataset: str, split: str, pairs: Sequence[PreferencePair], tokens: PairTokenizer, folder: Path
) -> Exported:
    """Write a task named ``innerpo_DATASET_SPLIT`` into a folder that the harness takes as ``include_path``.

    ``tokens`` holds the tokenizer that the task is for, and the limits at which texts are cut.
    """
    documents = list(_documents(dataset, split, pairs, tokens))
    if not documents:
        raise UserError(f"{dataset} ({split}) has no pair whose responses differ in their tokens; nothing to export")
    task = f"innerpo_{file_name(dataset)}_{split}"
    count = sum(len(document["pairs"]) for document in documents)
    prompts = len({document["prompt_id"] for document in documents})
    files = {
        f"{task}.jsonl": "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents),
        f"{METRICS_MODULE}.py": Path(harness_metrics.__file__).read_text(encoding="utf-8"),
        f"{task}.yaml": YAML.format(
            task=task,
            module=METRICS_MODULE,
            metrics=_metric_list(),
            pairs=count,
            prompts=prompts,
            dataset=dataset,
            split=split,
            tokenizer=tokens.tokenizer.name_or_path or "an unnamed model",
        ),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    inexact = sum(not document["exact"] for document in documents)
    notes = (f"{inexact} of {len(documents)} prompts become other tokens in lm-evaluation-harness",) if inexact else ()
    log.info(f"{task}: {tokens.report.line(tokens.max_prompt, tokens.max_response)}")
    return Exported(folder, tuple(folder / name for name in files), {split: count}, notes)


def harness_ids(tokenizer: Any, context: str, continuation: str) -> tuple[Ids, Ids]:
    """Return a context and its continuation as the harness's causal backends tokenise them (0.4.13, ``_encode_pair``).

    White space at the end of the context goes to the continuation; both are tokenised together and split at the length
    of the context alone. An empty context is BOS, or EOS for a tokenizer without one.
    """
    prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    start = tokenizer.decode(prefix)

    def encode(text: str, bare: bool = False) -> Ids:
        options = {"add_special_tokens": False} if bare or text.startswith(start) else {}
        return tuple(tokenizer.encode(text, **options))

    if not context:
        ids = encode(continuation, bare=True)
        return (ids[:1], ids[1:]) if ids[:1] == (prefix,) else ((prefix,), ids)
    kept = context.rstrip()
    before, whole = encode(kept) if kept else (), encode(context + continuation)
    return before, whole[len(before) :]


def choices_of(tokenizer: Any, item: PromptItem, responses: Sequence[int], texts: Sequence[Text]) -> Choices:
    """Return texts of which the harness makes the tokens of an item, of the responses with these indices.

    ``texts``: the prompt and the responses as the data set has them. They are tried first, closed by EOS, then what the
    tokens read.
    """
    wanted = [item.responses[i] for i in responses]
    found = [
        _choices(tokenizer, item.prompt, wanted, context, continuations)
        for context, continuations in _candidates(tokenizer, item.prompt, wanted, texts)
    ]
    return next((choices for choices in found if choices.exact), found[0])


def _documents(
    dataset: str, split: str, pairs: Sequence[PreferencePair], tokens: PairTokenizer
) -> Iterator[dict[str, Any]]:
    """One document per prompt and best response: the harness knows one right choice."""
    texts: dict[str, list[Text]] = {}
    for pair in pairs:
        known = texts.setdefault(pair.cluster, [pair.prompt])
        known += [t for t in (pair.chosen, pair.rejected) if t not in known[1:]]
    for item in tokens.scoring_items(pairs):
        for best in dict.fromkeys(chosen for chosen, _, _ in item.pairs):
            own = [(rejected, pair) for chosen, rejected, pair in item.pairs if chosen == best]
            responses = sorted({best, *(rejected for rejected, _ in own)})
            prompt, *written = texts[item.cluster]
            found = choices_of(tokens.tokenizer, item, responses, [prompt, *(written[i] for i in responses)])
            yield {
                "prompt": found.context,
                "choices": list(found.continuations),
                "target": responses.index(best),
                "head": found.head,
                "tokens": list(found.tokens),
                "characters": [item.characters[i] for i in responses],
                "pairs": [[responses.index(best), responses.index(rejected)] for rejected, _ in own],
                "pair_ids": [pair for _, pair in own],
                "responses": responses,
                "prompt_id": item.cluster,
                "dataset": dataset,
                "split": split,
                "exact": found.exact,
            }


def _candidates(
    tokenizer: Any, prompt: Ids, responses: Sequence[Ids], texts: Sequence[Text]
) -> Iterator[tuple[str, list[str]]]:
    eos = str(tokenizer.eos_token)
    if isinstance(texts[0], str):
        yield texts[0], [str(t) if str(t).rstrip().endswith(eos) else f"{t}{eos}" for t in texts[1:]]
    context = tokenizer.decode(list(prompt))
    wholes = [tokenizer.decode([*prompt, *ids]) for ids in responses]
    if all(whole.startswith(context) for whole in wholes):
        yield context, [whole[len(context) :] for whole in wholes]
    yield context, [tokenizer.decode(list(ids)) for ids in responses]


def _choices(
    tokenizer: Any, prompt: Ids, responses: Sequence[Ids], context: str, continuations: Sequence[str]
) -> Choices:
    """Tokenise a candidate as the harness does, and compare. White space at the context's end goes to the choices."""
    kept = context.rstrip()
    space = context[len(kept) :]
    texts = [space + text for text in continuations]
    made = [harness_ids(tokenizer, kept, text) for text in texts]
    before = made[0][0]
    head = harness_ids(tokenizer, kept, space)[1] if space else ()
    apart = bool(head) and all(ids[: len(head)] == head for _, ids in made)
    head = head if apart else ()
    exact = before + head == prompt and [ids[len(head) :] for _, ids in made] == list(responses)
    tokens = tuple(len(ids) - len(head) for _, ids in made)
    return Choices(kept, (*texts, *([space] if apart else [])), tokens, apart, exact)


def _metric_list() -> str:
    lines = []
    for metric in harness_metrics.METRICS:
        for name, aggregation in ((metric, "mean"), (f"pair_{metric}", f"!function {METRICS_MODULE}.over_pairs")):
            lines += [f"  - metric: {name}", f"    aggregation: {aggregation}", "    higher_is_better: true"]
    return "\n".join(lines)
