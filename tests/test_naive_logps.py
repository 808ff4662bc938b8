"""Facts of scoring against transformers used naively: one response at a time, no packing, no cache, no batch."""

import itertools
from dataclasses import replace

import polars as pl
import pytest
import torch

import innerpo
from innerpo.config.run import RunConfig
from innerpo.data.pairs import take_prompts
from innerpo.data.sources import load_pairs
from innerpo.evaluation.scoring_run import prepare_scoring
from innerpo.evaluation.sets import EvaluationSet
from innerpo.model.numerics.hardware import limit_threads

DATASETS = ("truthful_qa", "alpaca_short", "math_easy", "arc_easy", "crt_1")
PER_SET = 40


@pytest.fixture
def base():
    limit_threads(0)
    yield innerpo.load_base(dtype="float32")
    torch.set_num_threads(1)


def naive(base, prompt, responses, index):
    """(log-probability of a response and EOS behind its prompt, number of tokens), by transformers alone.

    A response begins where the text of the prompt, alone and with any of its responses, stops being the same tokens.
    """
    texts = [prompt, *(prompt + response for response in responses)]
    columns = zip(*(base.tokenizer(text)["input_ids"] for text in texts), strict=False)
    before = sum(1 for _ in itertools.takewhile(lambda tokens: len(set(tokens)) == 1, columns))
    ids = [*base.tokenizer(texts[1 + index])["input_ids"], base.tokenizer.eos_token_id]
    with torch.no_grad():
        logps = base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logps[t - 1, ids[t]].item() for t in range(before, len(ids))), len(ids) - before


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_log_probabilities_are_those_of_transformers_one_response_at_a_time(base, genies_dir, tmp_path):
    """200 responses of 5 distributions, within 1e-4 nats per token and 1e-4 of their size as sums."""
    config = RunConfig()
    config = replace(config, data=replace(config.data, genies_dir=genies_dir, cache_dir=tmp_path))
    sets = []
    for name in DATASETS:
        pairs = load_pairs(name, "test", config.data)
        few = take_prompts(pairs, PER_SET // 2, 0)  # two responses a prompt at least
        sets.append(EvaluationSet(name, name, "test", "extra", "", tuple(few)))
    scored = prepare_scoring(sets, base, config, None).base
    checked, worst_token, worst_sum = 0, 0.0, 0.0
    for found in sets:
        texts: dict[str, list[str]] = {}
        prompts = {}
        for pair in found.pairs:
            known = texts.setdefault(pair.cluster, [])
            known += [t for t in (pair.chosen, pair.rejected) if t not in known]
            prompts[pair.cluster] = pair.prompt
        rows = scored.filter(pl.col("set") == found.name).head(PER_SET)
        for row in rows.iter_rows(named=True):
            logp, tokens = naive(base, prompts[row["prompt"]], texts[row["prompt"]], row["response"])
            assert row["tokens"] == tokens
            worst_token = max(worst_token, abs(row["logp"] - logp) / tokens)
            worst_sum = max(worst_sum, abs(row["logp"] - logp))
            assert row["logp"] == pytest.approx(logp, rel=1e-4, abs=1e-4)
            checked += 1
    assert checked == len(DATASETS) * PER_SET == 200
    assert worst_token < 1e-4
    print(f"largest difference: {worst_token:.1e} nats per token, {worst_sum:.1e} nats per response")
