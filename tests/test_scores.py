"""Scores: what accuracy and its intervals mean, the rows on disk, the table, and `eval` from end to end."""

import math
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from conftest import build_model, make_pairs
from innerpo.cli.verbs import main
from innerpo.errors import UserError
from innerpo.evaluation.score import PairScore, read_rows, score_rows, write_rows
from innerpo.evaluation.scorers import UNKNOWN, Estimate, accuracy, cluster_mean, outcomes
from innerpo.evaluation.tables import as_markdown, format_estimate, headline
from innerpo.model.forward.outputs import SequenceOutputs
from source_helpers import write_jsonl

NAN = float("nan")


def row(chosen=-1.0, rejected=-2.0, **changes):
    values = {
        "model": "base",
        "column": "test",
        "dataset": "toy",
        "split": "test",
        "pair": "toy/0",
        "cluster": "a",
        "chosen_logp": float(chosen),
        "rejected_logp": float(rejected),
        "chosen_tokens": 1,
        "rejected_tokens": 1,
        "chosen_characters": 5,
        "rejected_characters": 3,
        "chosen_inner": NAN,
        "rejected_inner": NAN,
    }
    return PairScore(**values | changes)


# -- accuracy ------------------------------------------------------------------------------------------------------


def test_a_tie_is_one_half_and_unknown_stays_unknown():
    assert outcomes(np.array([0.3, -0.2, 0.0, 1e-300])).tolist() == [1.0, 0.0, 0.5, 1.0]
    assert np.isnan(outcomes(np.array([NAN, 1.0]))).tolist() == [True, False]


def test_accuracy_by_hand():
    # won, lost, tied, won: (1 + 0 + 1/2 + 1) / 4
    rows = [row(-1, -2), row(-3, -2), row(-2, -2, cluster="b"), row(-1, -4, cluster="b")]
    found = accuracy(rows, "sum_logp")
    assert (found.mean, found.n, found.clusters) == (0.625, 4, 2)
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0


def test_aggregates_by_hand():
    # By sum the short response wins (-3 > -4), by mean over tokens the long one (-3 / 1 < -4 / 2), by length it loses.
    rows = [row(-3, -4, rejected_tokens=2, chosen_characters=3, rejected_characters=9, cluster=c) for c in "ab"]
    assert [accuracy(rows, a).mean for a in ("sum_logp", "mean_logp", "longer")] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("rows", [[], [row()], [row(chosen_inner=1.0, rejected_inner=0.0), row(cluster="b")]])
def test_unknown_is_nan_and_never_zero(rows):
    found = accuracy(rows, "inner")
    assert all(math.isnan(v) for v in (found.mean, found.low, found.high))


def test_a_single_cluster_has_a_mean_and_no_interval():
    found = accuracy([row(-1, -2), row(-2, -1), row(-1, -3), row(-1, -3)])
    assert (found.mean, found.n, found.clusters) == (0.75, 4, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_copies_of_a_cluster_are_no_news():
    """Ten copies of each pair under the same prompt: the interval of the pairs, not the narrower one of ten times n."""
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0])
    names = [f"prompt {i}" for i in range(len(values))]
    once = cluster_mean(values, names)
    copied = cluster_mean(np.repeat(values, 10), np.repeat(names, 10).tolist())
    naive = cluster_mean(np.repeat(values, 10), [str(i) for i in range(80)])
    assert (copied.mean, copied.low, copied.high) == pytest.approx((once.mean, once.low, once.high), abs=1e-12)
    assert (copied.n, copied.clusters) == (80, 8)
    # The standard error falls by sqrt(10) = 3.2 if copies count as news.
    assert copied.high - copied.low > 2.5 * (naive.high - naive.low)


def test_clusters_of_unequal_size_weigh_by_their_pairs():
    found = cluster_mean(np.array([1.0, 1.0, 1.0, 0.0]), ["a", "a", "a", "b"])
    assert found.mean == 0.75
    assert (found.low, found.high) == (0.0, 1.0)  # a resample may hold b twice or a twice


def test_all_won_or_all_lost_is_not_certainty():
    """Resampling eight successes gives only successes; the exact interval of 8 out of 8 begins at .025 ** (1 / 8)."""
    names = [f"prompt {i // 3}" for i in range(24)]
    won, lost = cluster_mean(np.ones(24), names), cluster_mean(np.zeros(24), names)
    assert (won.mean, won.high, lost.mean, lost.low) == (1.0, 1.0, 0.0, 0.0)
    assert won.low == pytest.approx(0.025 ** (1 / 8), abs=1e-6)
    assert lost.high == pytest.approx(1 - 0.025 ** (1 / 8), abs=1e-6)


def test_the_interval_depends_on_the_seed_alone():
    values, names = np.array([1.0, 0.0, 1.0, 1.0, 0.0]), list("abcde")
    assert cluster_mean(values, names, seed=3) == cluster_mean(values, names, seed=3)
    wide = [cluster_mean(np.arange(20) / 19, list("abcdefghijklmnopqrst"), seed=s) for s in (0, 1)]
    assert wide[0].low != wide[1].low


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = naive_covered = 0
    for _ in range(200):
        # 40 prompts of four pairs; a prompt's own accuracy is .2 or .9 with equal chance, so the truth is .55
        own = rng.choice([0.2, 0.9], size=40)
        values = (rng.random((40, 4)) < own[:, None]).astype(float).ravel()
        found = cluster_mean(values, np.repeat(np.arange(40), 4).astype(str).tolist(), resamples=400)
        naive = cluster_mean(values, np.arange(160).astype(str).tolist(), resamples=400)
        covered += found.low <= 0.55 <= found.high
        naive_covered += naive.low <= 0.55 <= naive.high
    assert 0.90 <= covered / 200 <= 0.99
    assert naive_covered / 200 < 0.90  # intervals over pairs are too narrow here


# -- rows ----------------------------------------------------------------------------------------------------------


def same(a, b):
    values = ((getattr(a, f.name), getattr(b, f.name)) for f in fields(PairScore))
    return all(type(x) is type(y) and (x == y or (x != x and y != y)) for x, y in values)


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_rows_survive_the_disk(tmp_path, ending):
    path = tmp_path / f"scores.{ending}"
    rows = [
        row(-100 / 3, -1e-17, pair='a "quoted"\nid', dataset="naïve"),
        row(-1.0, -2.0, chosen_inner=0.1 + 0.2, rejected_inner=NAN),
    ]
    write_rows(path, rows)
    back = read_rows(path)
    assert len(back) == 2
    assert all(same(a, b) for a, b in zip(rows, back, strict=True)), back
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def outputs(*logps, n_tokens=3):
    return SequenceOutputs(torch.tensor(logps), torch.full((len(logps),), n_tokens), None)


LABELS = {"model": "base", "column": "test", "dataset": "toy", "split": "test"}


def test_rows_from_outputs_by_hand(items):
    rows = score_rows(items[:2], outputs(-1.0, -2.0, -3.0, -4.5), None, LABELS)
    assert [(r.pair, r.chosen_logp, r.rejected_logp, r.chosen_tokens) for r in rows] == [
        ("toy/0", -1.0, -2.0, 3),
        ("toy/1", -3.0, -4.5, 3),
    ]
    assert [r.cluster for r in rows] == [i.cluster for i in items[:2]]
    assert (rows[0].chosen_characters, rows[0].rejected_characters) == (len(" 11"), len(" 0 I think"))
    assert all(math.isnan(r.chosen_inner) for r in rows)


@pytest.mark.parametrize("bad", [NAN, float("inf"), float("-inf")])
def test_a_log_probability_that_is_not_finite_names_the_pair(items, bad):
    with pytest.raises(UserError, match="pair toy/1 has a log-probability that is not finite"):
        score_rows(items[:2], outputs(-1.0, -2.0, -3.0, bad), None, LABELS)


def test_a_response_without_tokens_names_the_pair(items):
    with pytest.raises(UserError, match="pair toy/0 has a response without tokens"):
        score_rows(items[:1], outputs(-1.0, -2.0, n_tokens=0), None, LABELS)


# -- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        (Estimate(0.6324, 0.5712, 0.6899, 9, 9), ".632 [.571, .690]"),
        (Estimate(1.0, 0.9996, 1.0, 9, 9), "1.000 [1.000, 1.000]"),
        (Estimate(0.0, 0.0, 0.25, 9, 9), ".000 [.000, .250]"),
        (Estimate(0.75, NAN, NAN, 4, 1), ".750"),
        (UNKNOWN, "-"),
    ],
)
def test_an_estimate_as_text(estimate, shown):
    assert format_estimate(estimate) == shown


def test_the_table_as_markdown():
    train = [row(-1, -2, column="train", cluster=c) for c in "ab"]  # both won: .025 ** (1 / 2) = .158
    test = [row(-1, -2), row(-2, -1)]  # one prompt: no interval
    policy = [replace(r, model="dpo", chosen_logp=-2.0, rejected_logp=-1.0) for r in train]  # both lost
    table = headline(
        [*train, *test, *policy],
        {"train": "toy (train), 2 pairs of 2 prompts", "test": "toy (test), 2 pairs of 1 prompts"},
        aggregate="mean_logp",
        resamples=50,
        notes=["oos: no shift is listed for toy", "rnd: not scored, no such data"],
    )
    assert as_markdown(table) == (
        "Accuracy by mean_logp, 95 % interval over prompts\n"
        "\n"
        "| method | train | test | oos | rnd |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| base | 1.000 [.158, 1.000] | .500 | - | - |\n"
        "| dpo | .000 [.000, .842] | - | - | - |\n"
        "\n"
        "train: toy (train), 2 pairs of 2 prompts\n"
        "test: toy (test), 2 pairs of 1 prompts\n"
        "oos: no shift is listed for toy\n"
        "rnd: not scored, no such data\n"
    )


# -- eval from end to end ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy_folder):
    """A toy run with its scores: (run folder, data file, folder of everything)."""
    folder = tmp_path_factory.mktemp("trained")
    pairs = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in make_pairs(24)]
    rows = [pair | {"split": "test" if i % 3 == 0 else "train"} for i, pair in enumerate(pairs)]
    data = write_jsonl(folder / "numbers.jsonl", rows)
    out, cache = folder / "out", folder / "cache"
    words = [f"--model.base-model={toy_folder}", f"--data.dataset={data}", f"--data.cache-dir={cache}"]
    words += ["--model.dtype=float32", "--data.batch-size=4", "--training.epochs=3", f"--output-dir={out}"]
    words += ["--eval.oos-dataset=embedded:longer", "--eval.rnd-dataset=embedded:control", "--eval.max-prompts=6"]
    assert main(["train", "innerpo", *words]) == 0
    return out / "innerpo-none_numbers_seed1", data, folder


def by_pair(rows):
    return {(r.model, r.column, r.pair): r for r in rows}


def test_eval_scores_what_training_scored(trained, tmp_path, capsys, monkeypatch):
    run, data, _ = trained
    first = read_rows(run / "scores.parquet")
    # Elsewhere, and under another name: nothing but the run's own config says what it was trained on.
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy" / "scores.parquet").unlink()
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["eval", "copy"]) == 0
    shown = capsys.readouterr().out
    again = read_rows(tmp_path / "copy" / "scores.parquet")

    assert {(r.model, r.column) for r in again} == {
        (model, column) for model in ("base", "innerpo-none") for column in ("train", "test", "oos", "rnd")
    }
    old, new = by_pair(first), by_pair(again)
    assert old.keys() == new.keys()
    assert len(old) == len(first) == 2 * 4 * 6
    for key, a in old.items():
        for field in ("chosen_logp", "rejected_logp", "chosen_inner", "rejected_inner"):
            assert getattr(new[key], field) == pytest.approx(getattr(a, field), abs=1e-6)
    moved = [abs(new["innerpo-none", *k[1:]].chosen_logp - r.chosen_logp) for k, r in new.items() if k[0] == "base"]
    assert min(moved) > 1e-4  # the adapter is on
    assert {r.dataset for r in again} == {data, "embedded:longer", "embedded:control"}
    for line in (f"train: {data} (train), 6 pairs of 6 prompts", f"test: {data} (test)", "oos: embedded:longer (test)"):
        assert line in shown
    assert (tmp_path / "copy" / "headline.md").read_text() == (run / "headline.md").read_text()


def test_base_rows_are_those_of_the_bare_model(trained, toy):
    """The base beside the adapter is the model without it: log-probabilities by a plain forward pass."""
    run, _, _ = trained
    pair = make_pairs(1)[0]
    found = next(r for r in read_rows(run / "scores.parquet") if r.model == "base" and r.pair == "numbers.jsonl/1")
    ids = toy.tokenizer(pair.prompt + pair.chosen)["input_ids"] + [1]
    n = len(toy.tokenizer(pair.prompt)["input_ids"])
    with torch.no_grad():
        logits = toy.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = sum(logits[i - 1, ids[i]].item() for i in range(n, len(ids)))
    assert found.chosen_tokens == len(ids) - n
    assert found.chosen_logp == pytest.approx(expected, abs=1e-4)


def test_flags_of_eval_change_what_is_scored_wherever_they_stand(trained, tmp_path, capsys):
    run, data, _ = trained
    shutil.copytree(run, tmp_path / "copy")
    flags = ["--eval.oos_dataset", "embedded:shorter", "--eval.format", "jsonl", "--eval.max-prompts", "3"]
    assert main(["eval", *flags, str(tmp_path / "copy")]) == 0
    (path,) = (tmp_path / "copy").rglob("scores.jsonl")
    rows = read_rows(path)
    own = (tmp_path / "copy" / "scores.parquet").read_bytes()
    assert own == (run / "scores.parquet").read_bytes()  # other columns than the run's own do not replace its scores
    assert {(r.column, r.dataset) for r in rows} == {
        ("train", data),
        ("test", data),
        ("oos", "embedded:shorter"),
        ("rnd", "embedded:control"),
    }
    assert len(rows) == 2 * 4 * 3


def test_an_adapter_that_innerpo_did_not_train(trained, toy_folder, tmp_path, capsys):
    """Made with peft alone: no config, no directions. Its base model is the one it names."""
    _, data, folder = trained
    model = build_model()
    policy = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.1)
    policy.peft_config["default"].base_model_name_or_path = str(toy_folder)
    policy.save_pretrained(tmp_path / "foreign")
    words = [f"--eval.train_dataset={data}", "--eval.rnd-dataset=embedded:control", "--eval.max-prompts=4"]
    words += [f"--data.cache-dir={folder / 'cache'}", "--model.dtype=float32"]
    assert main(["eval", str(tmp_path / "foreign"), *words]) == 0
    captured = capsys.readouterr()
    rows = by_pair(read_rows(tmp_path / "foreign" / "scores.parquet"))
    (name,) = {model for model, _, _ in rows} - {"base"}
    assert {column for _, column, _ in rows} == {"train", "test", "rnd"}
    assert "no shift is listed" in captured.out
    assert all(math.isnan(r.chosen_inner) for r in rows.values())
    base = {key[1:]: r.chosen_logp for key, r in rows.items() if key[0] == "base"}
    assert len(base) == 3 * 4
    assert all(abs(rows[name, *key].chosen_logp - logp) > 1e-4 for key, logp in base.items())
    table = (tmp_path / "foreign" / "headline.md").read_text()
    assert f"oos: no shift is listed for {data}" in table
