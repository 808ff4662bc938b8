"""A run around its training: which reference outputs it computes, its estimate of time, the base that it belongs to."""

import copy
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import innerpo
from conftest import build_model, build_tokenizer, facts_of, make_pairs
from innerpo.data.tokens import PairTokenizer
from innerpo.methods.method import build_method
from innerpo.model import reference
from innerpo.model.base import Base
from innerpo.model.forward import passes
from innerpo.model.identity import fingerprint
from innerpo.training import estimate
from innerpo.training.prepare import adapted, prepare_items, seen_pairs, training_items
from innerpo.training.record import check_base
from innerpo.training.train import train_policy

SMALL = {
    "model.lora_r": 2,
    "method.layers": "1,2",
    "data.batch_size": 4,
    "data.max_train_prompts": 12,
    "training.max_steps": 2,
    "training.save_steps": 0,
    "training.log_steps": 1,
    "eval.max_prompts": 4,
}


@pytest.fixture
def base():
    return Base(build_model(), build_tokenizer(), "toy", "toy")


@pytest.fixture
def items(base):
    return PairTokenizer(base.tokenizer, 64, 64).training_items(make_pairs(24))


@pytest.fixture
def counted(monkeypatch):
    """How many items every pass over items had."""
    sizes = []
    collect = passes.collect

    def count(model, items, *args, **options):
        sizes.append(len(items))
        return collect(model, items, *args, **options)

    monkeypatch.setattr(reference, "collect", count)
    return sizes


def config_of(method, tmp_path, **options):
    places = {"data.cache_dir": tmp_path / "cache", "output_dir": tmp_path}
    return innerpo.run_config(method, **SMALL | places | options)


def test_a_method_without_directions_computes_the_reference_only_of_pairs_it_sees(base, items, tmp_path, counted):
    config = config_of("dpo", tmp_path)
    seen = seen_pairs(config, len(items))
    assert len(seen) == len(set(seen)) == 8  # 2 steps of 4 pairs
    prepared = prepare_items(config, base, items)
    assert counted == [8]
    n_finite = torch.isfinite(prepared.reference.logps).sum()
    assert n_finite == 16  # two responses a pair; the others are NaN
    assert torch.isfinite(prepared.reference.select(seen).logps).all()
    prepare_items(config_of("innerpo", tmp_path), base, items)
    assert counted == [8, 24]  # directions are those of all pairs
    prepare_items(config_of("dpo", tmp_path, **{"training.max_steps": 100}), base, items)
    assert counted == [8, 24]  # all pairs: known


@pytest.mark.parametrize("steps", [2, 9])
def test_it_trains_the_adapter_that_the_whole_reference_trains(base, items, tmp_path, monkeypatch, steps):
    """9 steps reach into a second epoch."""
    config = config_of("dpo", tmp_path, **{"training.max_steps": steps})
    config.run_dir.mkdir(parents=True)
    weights = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr("innerpo.training.prepare.seen_pairs", lambda c, n: list(range(n)))
        prepared = prepare_items(config, base, items)
        with adapted(prepared, config) as (policy, method):
            train_policy(policy, method, prepared.pairs, config)
            weights.append({n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad})
    a, b = weights
    assert all(torch.allclose(a[n], b[n], atol=1e-6) for n in b)


# -- estimates ---------------------------------------------------------------------------------------------------------


def test_the_estimate_counts_tokens_of_reference_training_and_scoring(base, items, tmp_path, monkeypatch, caplog):
    """By hand: 24 items of some mean length; 2 steps of 4; forward passes at 2 tokens a second."""
    caplog.set_level("INFO")
    monkeypatch.setattr(estimate, "forward_rate", lambda *a: 2.0)
    mean = sum(i.n_tokens for i in items) / 24
    estimate.log_estimate(config_of("dpo", tmp_path), base, items, [(("test",), items[:3])])
    scored = sum(i.n_tokens for i in items[:3])
    shown = (mean * 8 / 2, mean * 8 * estimate.TRAINING_FACTOR / 2, float(scored))
    assert (
        "estimated time: "
        + ", ".join(
            f"{what} {estimate.duration(s)}"
            for what, s in zip(("reference", "training", "scoring"), shown, strict=True)
        )
        in caplog.text
    )


def test_scoring_is_counted_at_the_strengths_of_each_set(items, tmp_path):
    """By hand: a pass of the base, and one of the policy at each strength; sets that are not named have strength 1."""
    n = sum(item.n_tokens for item in items[:3])
    scored = [(("test", "rnd"), items[:3]), (("train",), items[:3])]
    config = config_of("dpo", tmp_path)

    def passes(strengths, sets=()):
        options = replace(config, eval=replace(config.eval, strengths=strengths, strength_sets=sets))
        return estimate.forward_tokens(options, items, scored, 2)["scoring"] / n

    assert passes((1.0,)) == 4
    assert passes((0.0, 0.5, 1.0)) == 6
    assert passes((0.0, 0.5, 1.0), ("test",)) == 5
    assert passes((0.5,), ("test",)) == 3
    steered = config_of("innerpo", tmp_path, **{"eval.steer": 2.0})  # one more pass of the base over both groups
    assert estimate.forward_tokens(steered, items, scored, 4)["scoring"] / n == 6


def test_an_ablated_run_has_a_reference_of_its_own(items, tmp_path):
    """By hand: the method is fitted on states of all 24 items; training needs the ablated reference of 8 besides."""
    mean = sum(i.n_tokens for i in items) / len(items)
    for method, own in (("soft-ablate", 0), ("ablate", 1)):
        config = config_of(method, tmp_path)
        found = estimate.forward_tokens(config, items, [], 4)["reference"]
        fitted = 24 * (1 + build_method(config.method, (1, 2)).fits_on_mismatched)
        assert found == pytest.approx(mean * (fitted + own * 8))


@pytest.mark.parametrize(
    ("method", "layers", "cache_gb", "start"),
    [("dpo", "all", 8.0, 3), ("innerpo", "2", 8.0, 3), ("innerpo", "0,2", 8.0, 1), ("dpo", "all", 0.0, 0)],
)
def test_passes_begin_behind_the_trunk_which_ends_where_states_are_read(
    items, tmp_path, method, layers, cache_gb, start
):
    """By hand, adapters from block 3 of 4: what lies between the trunk and them is run without gradients."""
    config = config_of(method, tmp_path)
    config = replace(
        config,
        method=replace(config.method, layers=layers),
        data=replace(config.data, trunk_cache_gb=cache_gb),
        model=replace(config.model, adapt_layers="3"),
    )
    n = sum(item.n_tokens for item in items[:3])
    found = estimate.forward_tokens(config, items, [(("test",), items[:3])], 4)
    assert found["scoring"] == pytest.approx(n * (1 + (4 - start) / 4))
    mean = sum(i.n_tokens for i in items) / len(items)
    assert found["training"] == pytest.approx(mean * 8 * ((3 - start) + estimate.TRAINING_FACTOR) / 4)


def test_a_run_of_seconds_logs_no_estimate(base, items, tmp_path, caplog):
    caplog.set_level("INFO")
    estimate.log_estimate(config_of("dpo", tmp_path), base, items, [])
    assert "estimated time" not in caplog.text
    assert estimate.forward_rate(base, items) > 0


@pytest.mark.parametrize(("seconds", "shown"), [(12.4, "12 s"), (180.0, "3 min"), (9000.0, "2.5 h")])
def test_durations(seconds, shown):
    assert estimate.duration(seconds) == shown


# -- the base of a run -------------------------------------------------------------------------------------------------


def test_a_run_is_refused_on_a_base_that_changed(toy_folder, tmp_path):
    """The base was fine-tuned in place since: every weight moved a little."""
    folder = tmp_path / "base"
    shutil.copytree(toy_folder, folder)
    options = SMALL | {"data.cache_dir": tmp_path / "cache", "output_dir": tmp_path}
    run = innerpo.train(innerpo.load_base(str(folder)), "dpo", data="embedded:compare", **options)
    before = (run.folder / "scores.parquet").read_bytes()
    moved = innerpo.load_base(str(folder))
    with torch.no_grad():
        for p in moved.model.parameters():
            p.add_(1e-2 * p.abs() * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    moved.model.save_pretrained(folder)
    with pytest.raises(innerpo.UserError, match="with other weights"):
        innerpo.evaluate(None, run.folder)
    assert (run.folder / "scores.parquet").read_bytes() == before


def test_the_fingerprint_is_of_values_and_not_of_their_type():
    model = build_model()
    name = fingerprint(model)
    assert fingerprint(build_model().to(torch.bfloat16)) == name
    with torch.no_grad():
        model.lm_head.weight.mul_(1.01)
    assert fingerprint(model) != name


@pytest.mark.parametrize("trained", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("here", [torch.float32, torch.bfloat16, torch.float16])
def test_a_run_is_known_on_its_base_in_any_type(trained, here, tmp_path, caplog):
    """The base is stored in bfloat16. Its small values are rounded in float16, from which nothing leads back."""
    stored = build_model().to(torch.bfloat16)
    with torch.no_grad():
        stored.lm_head.weight.mul_(1e-5)
    found = copy.deepcopy(stored)
    (tmp_path / "run.json").write_text(
        json.dumps({"base_model": "toy", "base_fingerprint": fingerprint(stored.to(trained))})
    )
    base = innerpo.Base(found.to(here).requires_grad_(False), build_tokenizer(), "toy", "toy")
    check_base(tmp_path, base)
    assert ("cannot be told" in caplog.text) == (here == torch.float16 != trained)
    if here != torch.float16:
        other = innerpo.Base(build_model(intermediate_size=40).to(here).requires_grad_(False), None, "other", "other")
        with pytest.raises(innerpo.UserError, match="with other weights"):
            check_base(tmp_path, other)


def test_another_base_model_is_scored_beside_the_adapter(toy_folder, tmp_path):
    """eval.ref_model adds a row of that model; the adapter stays on its own base."""
    other = tmp_path / "other"
    build_model(num_hidden_layers=2).save_pretrained(other)
    build_tokenizer().save_pretrained(other)
    options = SMALL | {"data.cache_dir": tmp_path / "cache", "output_dir": tmp_path}
    base = innerpo.load_base(str(toy_folder))
    run = innerpo.train(base, "dpo", data="embedded:compare", **options)
    both = innerpo.evaluate(base, run.folder, **{"eval.ref_model": str(other)})
    assert list(both.tables["mean_logp"].cells) == ["base", "dpo", str(other)]
    for model in ("base", "dpo"):
        assert facts_of(both, model) == facts_of(run, model)
    assert facts_of(both, str(other)) != facts_of(both, "base")
    assert both.folder != run.folder  # other scores than the run's own


@pytest.mark.slow
def test_ten_runs_on_one_base_take_less_than_half_the_time_of_ten_commands(toy_folder, tmp_path):
    """The issue's bar is .4; measured with the toy model, where loading is nothing and importing is all."""
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    started = time.perf_counter()
    for seed in range(10):
        subprocess.run(
            [
                *(sys.executable, "-m", "innerpo", "train", "dpo", *flags, f"--training.seed={seed}"),
                *(f"--model.base_model={toy_folder}", "--data.dataset=embedded:compare"),
                *(f"--output_dir={tmp_path / 'a'}", f"--data.cache_dir={tmp_path / 'cache-a'}"),
            ],
            check=True,
            capture_output=True,
        )
    commands = time.perf_counter() - started
    started = time.perf_counter()
    base = innerpo.load_base(str(toy_folder))
    options = SMALL | {"data.cache_dir": tmp_path / "cache-b", "output_dir": tmp_path / "b"}
    for seed in range(10):
        innerpo.train(base, "dpo", data="embedded:compare", **options | {"training.seed": seed})
    shared = time.perf_counter() - started
    assert shared <= 0.4 * commands, (shared, commands)


def test_a_text_of_several_sets_is_tokenised_once(base, tmp_path):
    """Training pairs, the train set (the same prompts with all responses) and a second run share their token ids."""
    texts = []
    tokenizer = base.tokenizer

    class Counting:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, text, **options):
            texts.append(text)
            return tokenizer(text, **options)

    base.tokenizer = Counting()
    config = config_of("dpo", tmp_path)
    pairs = make_pairs(12)
    first = training_items(config, base, pairs)
    assert len(texts) == len(set(texts)) == 36  # a prompt alone, with its chosen and with its rejected response
    assert base.pair_tokenizer(config.data).scoring_items(pairs)
    assert training_items(config, base, pairs) == first
    assert len(texts) == 36
