"""The bridge to lm-evaluation-harness: the same tokens, the same log-probabilities, the same counts, both ways."""

import contextlib
import json
import subprocess
import sys

import polars as pl
import pytest
import torch

import innerpo
from conftest import CHAT_TEMPLATE, build_model, build_tokenizer, make_pairs
from innerpo.data.pairs import PreferencePair, cluster_of
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError
from innerpo.evaluation.bridges.agreement import agreement
from innerpo.evaluation.bridges.harness_metrics import METRICS, over_pairs, process_results, response_logps
from innerpo.evaluation.bridges.lm_eval import choices_of, export_task, harness_ids
from innerpo.evaluation.bridges.lm_eval_results import (
    harness_model,
    harness_results,
    harness_scores,
    read_results,
    sample_files,
    scores_of,
)
from innerpo.evaluation.facts import PAIRS, RESPONSES, Scores
from innerpo.evaluation.outcomes import pair_outcomes
from innerpo.evaluation.score import pair_facts, response_facts, score_items
from innerpo.files import cache_root
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base, reference_mode

lm_eval = pytest.importorskip("lm_eval")

quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def pair(prompt, chosen, rejected, i=0):
    return PreferencePair(prompt, chosen, rejected, f"toy/{i}", "toy", "test", cluster_of(prompt))


def several():
    """Pairs of three kinds of prompt: ending in white space, in a word, and with four responses."""
    pairs = make_pairs(6)
    for i in range(6):
        prompt = f"Which is larger, {i} or {i + 3}?\n\n### Response:\n"
        pairs += [
            pair(prompt, f"{i + 3} is larger", text, f"{i}#{k}") for k, text in enumerate(["the cat", "3", "a 7"])
        ]
    return pairs


@pytest.fixture
def base():
    return Base(build_model(), build_tokenizer(), "toy", "toy")


def our_scores(base, model, pairs, name="toy", tokens=None):
    """What this project's own scoring says of the pairs."""
    items = (tokens or PairTokenizer(base.tokenizer, 64, 64)).scoring_items(pairs)
    out = score_items(model, items, "concatenated", base.pad_id, batch_size=4, request=None, what="toy")
    labels = {"model": "base", "reference": "", "set": name, "dataset": name, "split": "test"}
    facts = response_facts(items, out, None, torch.zeros_like(out.logps))
    rows = facts.with_columns(strength=pl.lit(0.0), **{k: pl.lit(v) for k, v in labels.items()})
    pairs_frame = pair_facts(items).with_columns(set=pl.lit(name))
    return Scores(rows.select(list(RESPONSES)), pairs_frame.select(list(PAIRS)))


def counts(scores, scorer):
    return pair_outcomes(scores, scorer).sort("pair")["outcome"].to_list()


# -- the same tokens ---------------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize(
    ("context", "continuation"),
    [
        ("the cat", " sat"),
        ("the cat\n\n### Response:\n", "sat<eos>"),
        ("the cat \n", ""),
        ("", "the cat"),
        ("", "<eos>the"),
        ("<eos>the cat", " sat"),
    ],
)
@pytest.mark.parametrize("bos", [False, True])
def test_tokens_are_those_of_the_harness(base, context, continuation, bos):
    if bos:
        base.tokenizer.add_special_tokens({"bos_token": "<pad>"})
    lm = harness_model(base.model, base.tokenizer)
    if context:
        theirs = lm._encode_pair(context, continuation)
    else:
        seen = []
        lm._loglikelihood_tokens = lambda requests, **_: seen.extend(requests)
        request = type("Request", (), {"args": (context, continuation)})
        lm.loglikelihood([request], disable_tqdm=True)
        theirs = seen[0][1:]
    assert harness_ids(base.tokenizer, context, continuation) == tuple(map(tuple, theirs))


def test_a_prompt_that_ends_in_white_space_gets_it_as_a_choice(tokenizer):
    tokens = PairTokenizer(tokenizer, 64, 64)
    (item,) = tokens.scoring_items([pair("the cat\n", "sat", "ran on")])
    found = choices_of(tokenizer, item, [0, 1], ["the cat\n", "sat", "ran on"])
    assert (found.context, found.continuations) == ("the cat", ("\nsat<eos>", "\nran on<eos>", "\n"))
    assert (found.head, found.exact) == (True, True)
    assert found.tokens == tuple(map(len, item.responses))


def test_a_prompt_that_merges_with_a_response_is_split_where_this_project_splits_it(tokenizer):
    texts = ["the cat sat on the m", "at", "oon"]  # "mat" is one token or two that begin with m
    (item,) = PairTokenizer(tokenizer, 64, 64).scoring_items([pair(*texts)])
    found = choices_of(tokenizer, item, [0, 1], texts)
    assert found.exact
    assert found.tokens == tuple(map(len, item.responses))


def test_cut_texts_are_exported_as_cut(tokenizer):
    texts = ["Question: which is larger, 3 or 7?", " the larger one is 7. the larger one", " the cat sat"]
    (item,) = PairTokenizer(tokenizer, 3, 4).scoring_items([pair(*texts)])
    assert len(item.prompt) == 3
    found = choices_of(tokenizer, item, [0, 1], texts)
    assert found.exact
    assert tokenizer.decode(item.prompt) == found.context
    assert not any(text.endswith("<eos>") for text in found.continuations[:1])


def test_chat_messages_are_exported_as_their_template_writes_them(tokenizer, tmp_path):
    assert tokenizer.chat_template == CHAT_TEMPLATE
    user, answers = ({"role": "user", "content": "the cat"},), [({"role": "assistant", "content": t},) for t in "ab"]
    exported = export_task("toy", "test", [pair(user, *answers)], PairTokenizer(tokenizer, 64, 64), tmp_path)
    (doc,) = documents(exported)
    assert doc["prompt"] == "<|user|>the cat<eos>\n<|assistant|>"
    assert (doc["choices"], doc["exact"], doc["characters"]) == (["a<eos>", "b<eos>"], True, [1, 1])


def documents(exported):
    return [json.loads(line) for line in exported.files[0].read_text().splitlines()]


def test_a_document_holds_a_prompt_with_every_response(tokenizer, tmp_path):
    exported = export_task("genies:toy", "test", several(), PairTokenizer(tokenizer, 64, 64), tmp_path)
    assert [path.name for path in exported.files] == [
        "innerpo_genies_toy_test.jsonl",
        "innerpo_metrics.py",
        "innerpo_genies_toy_test.yaml",
    ]
    assert (exported.pairs, exported.notes) == ({"test": 24}, ())
    docs = documents(exported)
    assert len(docs) == 12
    assert docs[6] | {"tokens": []} == {
        "prompt": "Which is larger, 0 or 3?\n\n### Response:",
        "choices": ["\n3 is larger<eos>", "\nthe cat<eos>", "\n3<eos>", "\na 7<eos>", "\n"],
        "target": 0,
        "head": True,
        "tokens": [],
        "characters": [11, 7, 1, 3],
        "pairs": [[0, 1], [0, 2], [0, 3]],
        "pair_ids": ["toy/0#0", "toy/0#1", "toy/0#2"],
        "responses": [0, 1, 2, 3],
        "prompt_id": cluster_of("Which is larger, 0 or 3?\n\n### Response:\n"),
        "dataset": "genies:toy",
        "split": "test",
        "exact": True,
    }


def test_two_best_responses_make_two_documents(tokenizer, tmp_path):
    pairs = [pair("the cat", " a", " b", 0), pair("the cat", " c", " b", 1)]
    docs = documents(export_task("toy", "test", pairs, PairTokenizer(tokenizer, 64, 64), tmp_path))
    assert [(d["responses"], d["target"], d["pair_ids"]) for d in docs] == [
        ([0, 1], 0, ["toy/0"]),
        ([1, 2], 1, ["toy/1"]),
    ]


# -- the metrics beside a task -----------------------------------------------------------------------------------------

DOC = {
    "head": True,
    "target": 0,
    "tokens": [4, 2, 1],
    "characters": [8, 2, 8],
    "pairs": [[0, 1], [0, 2]],
}


def test_metrics_by_hand():
    results = [(-5.0, False), (-4.0, False), (-3.0, True), (-1.0, False)]  # the last is the white space
    assert response_logps(DOC, results) == [-4.0, -3.0, -2.0]
    assert process_results(DOC, results) == {
        "acc": 0.0,  # -4 -3 -2
        "pair_acc": (0.0, 2),
        "acc_norm": 0.0,  # -.5 -1.5 -.25
        "pair_acc_norm": (1.0, 2),
        "acc_mean": 1.0,  # -1 -1.5 -2
        "pair_acc_mean": (2.0, 2),
    }


def test_a_tie_counts_one_half_and_the_first_place_is_shared():
    doc = DOC | {"head": False, "tokens": [1, 1, 2], "characters": [1, 1, 1]}
    found = process_results(doc, [(-1.0, False), (-1.0, False), (-1.0, False)])
    assert (found["acc"], found["pair_acc"]) == (1 / 3, (1.0, 2))
    assert (found["acc_mean"], found["pair_acc_mean"]) == (0.0, (0.5, 2))


def test_pairs_are_weighted_alike():
    assert over_pairs([(1.0, 1), (1.5, 3)]) == 0.625


# -- both ways ---------------------------------------------------------------------------------------------------------


@quiet
def test_accuracies_are_the_harnesss_in_both_directions(base, tmp_path):
    tokens = PairTokenizer(base.tokenizer, 64, 64)
    export_task("toy", "test", several(), tokens, tmp_path)
    ours = our_scores(base, base.model, several())
    found = harness_results(base.model, base.tokenizer, tmp_path)
    theirs = scores_of({"base": found["samples"]["innerpo_toy_test"]}, "base")
    assert theirs.pairs.sort("pair").equals(ours.pairs.sort("pair"))
    metrics = found["results"]["innerpo_toy_test"]
    for scorer, metric in (("sum_logp", "acc"), ("mean_logp", "acc_mean")):
        expected = counts(ours, scorer)
        assert 0 < sum(expected) < len(expected) == 24
        assert counts(theirs, scorer) == expected  # their facts, our outcomes
        assert metrics[f"pair_{metric},none"] == sum(expected) / 24  # their outcomes
        by_prompt = pair_outcomes(ours, scorer).group_by("prompt").agg(pl.col("outcome").min())
        assert metrics[f"{metric},none"] == by_prompt["outcome"].mean()  # best of n: right where all its pairs are
    keys = ["set", "prompt", "response"]
    both = ours.responses.join(theirs.responses, on=keys)
    assert len(both) == len(ours.responses) == 36
    assert both["tokens"].equals(both["tokens_right"])
    assert both["characters"].equals(both["characters_right"])
    torch.testing.assert_close(both["logp"].to_torch(), both["logp_right"].to_torch(), atol=1e-4, rtol=0)


@quiet
def test_a_live_policy_and_the_files_of_the_harness(base, tmp_path):
    """HFLM takes the base with its adapter; what the harness writes is read back as what it returned."""
    policy = add_adapter(base, innerpo.ModelConfig(lora_r=4), seed=1)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(3))
    tokens = PairTokenizer(base.tokenizer, 64, 64)
    export_task("toy", "test", several(), tokens, tmp_path)
    live = harness_scores(policy, base.tokenizer, tmp_path, "mine")
    ours = our_scores(base, policy, several())
    with reference_mode(policy):
        unmoved = our_scores(base, base.model, several())
    assert counts(live, "mean_logp") == counts(ours, "mean_logp") != counts(unmoved, "mean_logp")
    assert live.responses["model"].unique().to_list() == ["mine"]

    write_as_the_harness(base, policy, tmp_path)
    read = read_results(tmp_path / "results", base="toy__base")
    assert read.responses["model"].unique(maintain_order=True).to_list() == ["mine", "base"]
    assert read.responses.filter(model="mine").equals(live.responses)
    assert counts(Scores(read.responses.filter(model="base"), read.pairs), "sum_logp") == counts(unmoved, "sum_logp")
    both = Scores(
        pl.concat([unmoved.responses, ours.responses.with_columns(model=pl.lit("dpo"), strength=pl.lit(1.0))]),
        ours.pairs,
    )
    near = {(t, o): d for t, o, _, _, _, d in agreement(read, both).iter_rows()}
    assert near["mine", "dpo"] < 1e-4 < 0.01 < near["mine", "base"]
    assert near["base", "base"] < 1e-4 < 0.01 < near["base", "dpo"]


def write_as_the_harness(base, policy, folder):
    """Run and save as the harness's command does with its log of samples and an output path."""
    from lm_eval.loggers import EvaluationTracker

    for model in ("mine", "toy/base"):
        tracker = EvaluationTracker(output_path=str(folder / "results"))
        tracker.general_config_tracker.log_experiment_args(
            model_source="hf",
            model_args=f"pretrained={model}",
            system_instruction=None,
            chat_template=None,
            fewshot_as_multiturn=None,
        )
        if model == "mine":
            found = harness_results(policy, base.tokenizer, folder)
        else:
            with reference_mode(policy):
                found = harness_results(policy, base.tokenizer, folder)
        tracker.save_results_aggregated(results=found, samples=found["samples"])
        for task, samples in found["samples"].items():
            tracker.save_results_samples(task_name=task, samples=samples)


@quiet
@pytest.mark.slow
def test_the_command_of_the_harness_on_a_saved_adapter(base, toy_folder, tmp_path):
    """The commands of docs/bridges.md, on a toy."""
    run = tmp_path / "run"
    policy = add_adapter(base, innerpo.ModelConfig(lora_r=4), seed=1)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(3))
    policy.save_pretrained(run)
    export_task("toy", "test", several(), PairTokenizer(base.tokenizer, 64, 64), tmp_path / "tasks")
    for adapter in ("", f",peft={run}"):
        command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args"]
        command += [f"pretrained={toy_folder}{adapter},dtype=float32", "--device", "cpu", "--tasks", "innerpo_toy_test"]
        command += ["--include_path", str(tmp_path / "tasks"), "--log_samples", "--output_path"]
        command += [str(tmp_path / "tasks" / "results" / ("policy" if adapter else "base"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for name, model in (("policy", policy), ("base", base.model)):
        read = read_results(tmp_path / "tasks" / "results" / name)
        context = reference_mode(policy) if name == "base" else contextlib.nullcontext()
        with context:
            ours = our_scores(base, model, several())
        assert counts(read, "mean_logp") == counts(ours, "mean_logp")
        assert counts(read, "sum_logp") == counts(ours, "sum_logp")


@quiet
def test_a_moved_folder_is_still_a_task(base, tmp_path):
    export_task("toy", "test", several()[-6:], PairTokenizer(base.tokenizer, 64, 64), tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert len(harness_results(base.model, base.tokenizer, tmp_path / "b")["samples"]["innerpo_toy_test"]) == 2


# -- what is not there -------------------------------------------------------------------------------------------------


def test_the_newest_file_of_a_task_counts(tmp_path):
    for date in ("2026-01-01T10-00-00.1", "2026-02-01T10-00-00.1"):
        for task in ("innerpo_a_test", "innerpo_b_test"):
            path = tmp_path / "m" / f"samples_{task}_{date}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
    assert [p.name for p in sample_files(tmp_path)["m"]] == [
        "samples_innerpo_a_test_2026-02-01T10-00-00.1.jsonl",
        "samples_innerpo_b_test_2026-02-01T10-00-00.1.jsonl",
    ]


def test_two_models_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for place in ("policy/toy", "base/toy", "other"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "samples_x_2026-01-01T10-00-00.1.jsonl").write_text("")
    assert sorted(sample_files(tmp_path)) == ["base/toy", "other", "policy/toy"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (None, "holds no samples_"),
        ('{"doc": {"question": 1}}', "line 1 is no sample of a task that was exported"),
        ('{"doc": ', "line 1 is not JSON .* may be cut short"),
    ],
)
def test_results_that_are_none(tmp_path, line, message):
    if line:
        (tmp_path / "samples_x_2026-01-01T10-00-00.1.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        read_results(tmp_path)


def test_a_base_that_is_not_there(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "samples_x_2026-01-01T10-00-00.1.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no results of a model 'n'; known: m"):
        read_results(tmp_path, "n")


def test_a_folder_without_a_task(base, tmp_path):
    with pytest.raises(UserError, match="holds no exported task"):
        harness_results(base.model, base.tokenizer, tmp_path)


# -- the real model ----------------------------------------------------------------------------------------------------


@quiet
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dataset", ["truthful_qa", "alpaca_short"])
def test_genies_by_the_harness_and_by_this_project(genies_dir, dataset, tmp_path):
    """Equal counts of pairs by mean and by sum on the embedded model, and best of n."""
    from innerpo.config.data import DataConfig
    from innerpo.evaluation.bridges.selection import split_pairs

    base = innerpo.load_base(dtype="float32")
    pairs = split_pairs(dataset, "test", DataConfig(genies_dir=genies_dir), max_prompts=24)
    exported = export_task(dataset, "test", pairs, base.pair_tokenizer(DataConfig()), tmp_path)
    assert exported.notes == ()  # every prompt becomes the same tokens there
    found = harness_results(base.model, base.tokenizer, tmp_path)
    (samples,) = found["samples"].values()
    (metrics,) = found["results"].values()
    theirs = scores_of({"base": samples}, "base")
    ours = our_scores(base, base.model, pairs, dataset, base.pair_tokenizer(DataConfig()))
    assert theirs.pairs.sort("pair").equals(ours.pairs.sort("pair"))
    for scorer, metric in (("sum_logp", "pair_acc"), ("mean_logp", "pair_acc_mean")):
        assert counts(theirs, scorer) == counts(ours, scorer)
        assert metrics[f"{metric},none"] == pytest.approx(sum(counts(ours, scorer)) / len(pairs), abs=1e-12)
    assert {f"{m},none" for m in METRICS} <= set(metrics)
    assert cache_root(None).is_dir()
