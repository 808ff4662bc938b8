"""The benchmarks: formulas by hand, both of them end to end on a toy, and what they refuse to call a result."""

import json
import math
from functools import partial

import pytest
import torch

from benchmarks import parity, processes, score, scorers, systems, train
from benchmarks.flops import attended, matmul_rate, scoring_flops, shape_of, training_flops
from benchmarks.memory import CLEAR, peak_bytes, reset_peak
from benchmarks.models import SHAPES, random_model
from benchmarks.options import ScoreOptions, TrainOptions
from benchmarks.pairs import load_prompts, load_workload, synthetic_pairs, useful_tokens, with_responses
from benchmarks.summary import summarise
from conftest import build_model
from innerpo.data.batching.batch import PADDING, make_batch
from innerpo.data.tokens import PairTokenizer, PromptItem
from innerpo.errors import MachineError, UserError
from innerpo.model.forward.masks import attention_mask


def small_matmul(dtype, threads):
    return matmul_rate(dtype, threads, 64, 0.0)


# -- formulas --------------------------------------------------------------------------------------------------------


ITEM = PromptItem((5, 6, 7), ((8, 1), (1,)), (0, 0), ((0, 1, "x"),), "c")


def test_operations_by_hand():
    """Toy Llama: hidden 32, inner 48, 4 layers, 4 query and 2 key heads of 8, vocabulary 320; 3 + 2 + 1 tokens."""
    shape = shape_of(build_model())
    assert shape.linear == 4 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48) == 30720
    assert shape.adapter == 4 * 16 * (64 + 48 + 48 + 64 + 3 * 80) == 29696
    assert shape.attention == 4 * 4 * 8 == 128
    assert shape.head == 32 * 320 == 10240
    assert attended(ITEM) == (1 + 2 + 3) + (4 + 5) + 4 == 19
    assert training_flops(shape, [ITEM]) == (4 * 30720 + 6 * 29696) * 6 + 12 * 128 * 19 + 4 * 10240 * 3 == 1958400
    assert scoring_flops(shape, [ITEM]) == 2 * 30720 * 6 + 4 * 128 * 19 + 2 * 10240 * 3 == 439808
    assert training_flops(shape, [ITEM, ITEM]) == 2 * 1958400


def test_attended_is_what_the_mask_allows(items):
    batch = make_batch(items, "one_row", 0)
    allowed = attention_mask(batch)[:, 0] & (batch.segments != PADDING)[:, :, None]
    assert sum(map(attended, items)) == int(allowed.sum())


def test_useful_tokens_are_those_without_padding(items):
    batch = make_batch(items, "one_row", 0)
    assert useful_tokens(items) == int((batch.segments != PADDING).sum())


def test_matmul_rate_is_operations_over_seconds():
    found = matmul_rate(torch.float32, 0, 64, 0.0)
    assert found["products"] == 3
    assert 1e6 < found["flops_per_second"] < 1e16


# -- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [7, 64])
def test_synthetic_pairs_fill_their_rows(tokenizer, tokens):
    items = PairTokenizer(tokenizer, 999, 999).training_items(synthetic_pairs(tokenizer, tokens, 5))
    assert {len(i.prompt) + len(r) for i in items for r in i.responses} == {tokens}
    assert all(len(i.prompt) == tokens // 2 for i in items)


def test_borrowed_responses_come_after_ones_own(items):
    found = with_responses(items, 4)
    assert [i.responses[:2] for i in found] == [i.responses for i in items]
    assert all(len(set(i.responses)) == 4 for i in found)
    with pytest.raises(UserError, match="too few different responses"):
        with_responses(items[:1], 3)


def test_all_responses_of_a_prompt_are_scored_before_any_are_borrowed(tokenizer, tmp_path):
    file = tmp_path / "pairs.jsonl"
    pairs = [("a?", " yes", " no"), ("a?", " yes", " maybe"), ("b?", " one", " two"), ("a?", " yes", " never")]
    file.write_text("".join(json.dumps({"prompt": p, "chosen": c, "rejected": r}) + "\n" for p, c, r in pairs))
    options = ScoreOptions(dataset=str(file))
    items = load_prompts(options, tokenizer, 2)
    assert [len(i.responses) for i in items] == [4, 2]
    four, borrowed = with_responses(items, 4)
    assert four.responses == items[0].responses
    assert borrowed.responses == items[1].responses + items[0].responses[:2]
    assert with_responses(items, 2)[0].responses == items[0].responses[:2]
    with pytest.raises(UserError, match="has 2 prompts"):
        load_prompts(options, tokenizer, 3)


def test_pairs_that_would_be_cut_are_left_out(tokenizer, pairs_file):
    options = TrainOptions(dataset=str(pairs_file), max_prompt_tokens=20)
    pairs, items = load_workload(options, tokenizer, 2)
    assert [p.id for p in pairs] == [i.pairs[0][2] for i in items]
    assert max(len(i.prompt) for i in items) <= 20
    with pytest.raises(UserError, match="do not fit"):
        load_workload(options, tokenizer, 8)


def test_a_missing_data_set_is_one_clear_error(tokenizer, tmp_path):
    options = TrainOptions(dataset="math_easy", genies_dir=tmp_path / "nowhere")
    with pytest.raises(UserError, match="embedded:longer"):
        load_workload(options, tokenizer, 2)


def test_steps_must_be_whole_passes():
    assert TrainOptions(steps=4, batch_size=2, pairs=4).passes == 2
    for wrong in ({"pairs": 3}, {"pairs": 2, "batch_size": 4, "steps": 1}, {"steps": 0}):
        with pytest.raises(UserError):
            TrainOptions(**wrong)


@pytest.mark.parametrize("program", [train, score, parity])
def test_a_wrong_number_is_one_line(program, capsys):
    assert program.main(["--repeats=0"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_random_model_has_the_shape_that_was_asked_for(tmp_path, toy_folder):
    from transformers import AutoModelForCausalLM

    tiny = SHAPES["llama-1b"] | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 500}
    folder = random_model(tmp_path / "tiny", tiny, toy_folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.get_output_embeddings().weight.shape == (500, 64)
    assert random_model(folder, {}, toy_folder) == folder  # made once


# -- processes -------------------------------------------------------------------------------------------------------


def test_a_job_runs_in_a_process_of_its_own():
    found = processes.in_own_process(matmul_rate, torch.float32, 1, 64, 0.0)
    assert found["threads"] == 1
    assert found["products"] == 3


@pytest.mark.skipif(torch.cuda.is_available() or not CLEAR.exists(), reason="resident memory, as Linux counts it")
def test_peak_memory_is_that_of_the_stretch():
    large = torch.ones(100_000_000)  # 400 MB
    before = peak_bytes()
    del large
    reset_peak()
    after = peak_bytes()
    medium = torch.ones(50_000_000)
    assert before - after > 3.5e8
    assert 1.5e8 < peak_bytes() - after < 2.5e8
    del medium


def test_a_fault_of_the_process_is_told(monkeypatch):
    with pytest.raises(UserError, match="--repeats"):
        processes.in_own_process(partial(TrainOptions, repeats=0))
    monkeypatch.setattr(processes.sys, "executable", "false")
    with pytest.raises(MachineError, match="ended with 1"):
        processes.in_own_process(matmul_rate)


def test_systems_are_measured_in_turn(monkeypatch):
    monkeypatch.setattr(processes, "in_own_process", lambda function, *arguments: {"value": function(*arguments)})
    rows = processes.alternate({"a": (abs, -1), "b": (abs, -2)}, 2)
    assert [(r["system"], r["repeat"], r["value"]) for r in rows] == [
        ("a", 0, 1),
        ("b", 0, 2),
        ("a", 1, 1),
        ("b", 1, 2),
    ]


# -- summaries -------------------------------------------------------------------------------------------------------


def row(system, repeat, seconds, **more):
    figures = {"seconds": seconds, "tokens": 100, "flops": 1000, "peak_bytes": 7}
    losses = {"warmup_losses": [0.6931, 0.5], "dpo_loss_after": 0.4}
    return {"system": system, "repeat": repeat} | figures | losses | more


MATMUL_ROW = {"system": "matmul", "repeat": 0, "flops_per_second": 2000.0}


def test_summary_by_hand():
    times = {"innerpo-dpo": (1.0, 2.0, 4.0), "trl": (4.0, 4.0, 4.0)}
    rows = [row(s, i, t) for i in range(3) for s, all_times in times.items() for t in [all_times[i]]]
    found = summarise([*rows, MATMUL_ROW], "trl")["innerpo-dpo"]
    assert (found.seconds, found.seconds_range) == (2.0, (1.0, 4.0))
    assert found.tokens_per_second == 50.0
    assert found.flops_fraction == 1000 / 2.0 / 2000.0
    assert (found.time_ratio, found.time_ratio_range) == (0.5, (0.25, 1.0))


def test_systems_with_one_loss_must_agree():
    good = [row("innerpo-dpo", 0, 1.0), row("innerpo-default", 0, 1.0, dpo_loss_after=0.9), row("trl", 0, 1.0)]
    assert train.disagreements([*good, MATMUL_ROW], "float32") == []
    for wrong in ({"warmup_losses": [0.6931, 0.51]}, {"dpo_loss_after": math.nan}, {"tokens": 99}):
        assert len(train.disagreements([*good, row("trl", 1, 1.0, **wrong)], "float32")) == 1


# -- end to end ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # TRL's deprecations are not ours
def test_training_side_by_side(here, monkeypatch, capsys, tmp_path, toy_folder, pairs_file):
    monkeypatch.setattr(train, "matmul_rate", small_matmul)
    saved = tmp_path / "found" / "train.json"
    arguments = f"--model {toy_folder} --dataset {pairs_file} --batch-size 4 --steps 2 --warmup 2 --repeats 1"
    assert train.main([*arguments.split(), "--cache-dir", str(tmp_path), "--save", str(saved)]) == 0
    printed = capsys.readouterr().out
    record = json.loads(saved.read_text())
    assert record["benchmark"] == "train"
    assert {"date", "hardware", "versions", "commit", "options", "workloads"} <= record.keys()
    assert {"cpu", "cores", "bf16_units", "gpu"} <= record["hardware"].keys()
    (workload,) = record["workloads"]
    assert list(workload["summary"]) == ["innerpo-dpo", "innerpo-default", "trl", "trl-precomputed"]
    assert len({r["tokens"] for r in workload["rows"] if r["system"] != "matmul"}) == 1
    for system, found in workload["summary"].items():
        assert system in printed
        assert found["seconds"] > 0
        assert 1e8 < found["peak_bytes"] < 1e11
        assert found["tokens_per_second"] > 0
        assert found["flops_fraction"] > 0
    dpo = [r for r in workload["rows"] if r["system"] in train.DPO]
    for r in dpo:
        assert r["warmup_losses"][0] == pytest.approx(math.log(2), abs=1e-5)
        assert r["warmup_losses"] == pytest.approx(dpo[0]["warmup_losses"], abs=1e-3)
        assert r["dpo_loss_after"] < r["warmup_losses"][1] < r["warmup_losses"][0]


@pytest.mark.filterwarnings("ignore")
def test_two_systems_on_one_batch_end_alike(tmp_path, toy_folder, pairs_file):
    """Where each timed step has all the pairs, nothing but rounding sets this project's DPO apart from TRL's."""
    shared = {"model": str(toy_folder), "dataset": str(pairs_file), "cache_dir": tmp_path, "lr": 2e-3}
    options = TrainOptions(**shared, batch_size=4, pairs=4, steps=3, warmup=2)
    ours, theirs = (systems.measure(name, options, tmp_path) for name in ("innerpo-dpo", "trl-no-checkpointing"))
    assert ours["dpo_loss_after"] == pytest.approx(theirs["dpo_loss_after"], abs=1e-4)
    assert ours["dpo_loss_after"] < ours["warmup_losses"][-1] - 0.1
    assert train.disagreements([{"system": "innerpo-dpo"} | ours, {"system": "trl"} | theirs], "float32") == []


def test_scaling_measures_both_series(here, monkeypatch, capsys, tmp_path, toy_folder, pairs_file):
    monkeypatch.setattr(train, "matmul_rate", small_matmul)
    arguments = (
        f"--model {toy_folder} --dataset {pairs_file} --batch-size 2 --steps 1 --warmup 1 --repeats 1 --scaling "
        f"--systems innerpo-dpo --multiples 1 2 --lengths 8 16 --cache-dir {tmp_path} --save {tmp_path}/scaling.json"
    )
    assert train.main(arguments.split()) == 0
    names = [w["name"] for w in json.loads((tmp_path / "scaling.json").read_text())["workloads"]]
    assert names[0].endswith("2 pairs a step")
    assert names[1].endswith("4 pairs a step")
    assert names[2:] == ["8 tokens a row, 2 pairs a step", "16 tokens a row, 2 pairs a step"]
    assert "(x1.00); 16 tokens a row" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # lm-eval's deprecations are not ours
def test_scoring_side_by_side(here, monkeypatch, capsys, tmp_path, toy_folder, pairs_file):
    monkeypatch.setattr(score, "matmul_rate", small_matmul)
    saved = tmp_path / "score.json"
    arguments = f"--model {toy_folder} --dataset {pairs_file} --prompts 6 --batch-size 4 --repeats 2"
    arguments = [*arguments.split(), "--cache-dir", str(tmp_path), "--save", str(saved)]
    assert score.main(arguments) == 0
    assert "responses/s" in capsys.readouterr().out
    workloads = json.loads(saved.read_text())["workloads"]
    assert [w["responses_per_prompt"] for w in workloads] == [2, 4]
    for w in workloads:
        assert w["largest_relative_difference"] <= 1e-4
        assert w["summary"]["innerpo"]["responses_per_second"] > 0
    monkeypatch.setattr(score, "TOLERANCE", {"float32": -1.0})
    assert score.main(arguments) == 1
    assert "FAIL" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_lm_eval_gives_the_log_probabilities_of_this_project(toy, items):
    ours = scorers.innerpo_scorer(toy, items, 4)(items)
    theirs = scorers.lm_eval_scorer(toy, 4)(items)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert max(theirs) - min(theirs) > 1.0  # else the comparison would say nothing
