"""`train --dry-run`: what it checks, shows and leaves alone; and the memory that it predicts, against real runs."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import build_model, make_pairs
from innerpo.cli.verbs import main
from innerpo.config.model import ModelConfig
from innerpo.config.run import default_run
from innerpo.data.batching.batch import make_batch
from innerpo.data.lengths import MOST_BINS, lengths
from innerpo.data.tokens import PairTokenizer
from innerpo.methods.method import LossOutput, build_method
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base
from innerpo.model.forward.outputs import StateRequest, sequence_outputs
from innerpo.model.numerics.live_bytes import LiveBytes, as_on
from innerpo.model.reference import Reference
from innerpo.model.shape import load_shape
from innerpo.plan import memory_of, plan_run
from innerpo.training.collate import PairCollator
from innerpo.training.largest import largest_group
from innerpo.training.memory import bytes_of_shares, optimiser_states
from innerpo.training.sampler import first_steps
from innerpo.training.shares import GradientShares

ROOT = Path(__file__).parents[1]


# -- lengths -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60), st.integers(1, 1000))
def test_every_length_is_in_its_bin(found, limit):
    shown = lengths("prompt", found, limit)
    bins = Counter(next(i for i, edge in enumerate(shown.edges[1:]) if n < edge) for n in found)
    assert tuple(bins[i] for i in range(len(shown.counts))) == shown.counts
    assert len(shown.counts) <= MOST_BINS
    assert len({b - a for a, b in zip(shown.edges, shown.edges[1:], strict=False)}) == 1
    assert shown.n_cut == sum(n > limit for n in found)
    assert shown.lost == sum(n - min(n, limit) for n in found)


def test_a_histogram_by_hand():
    shown = lengths("response", [3, 14, 15, 92, 65, 35], 50)
    assert shown.edges == (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
    assert shown.counts == (1, 2, 0, 1, 0, 0, 1, 0, 0, 1)
    assert (shown.n, shown.n_cut, shown.lost, shown.middle, shown.longest) == (6, 2, 57, 25.0, 92)


# -- counted bytes -----------------------------------------------------------------------------------------------------


def test_bytes_by_hand():
    x = torch.empty(10, device="meta", requires_grad=True)
    live = LiveBytes([x])
    with live:
        y = x.exp()  # 40 bytes, kept for the backward pass
        z = (y * 2).sum()  # 40 bytes for a moment, then 4
        assert (live.now, live.peak) == (44, 84)
        z.backward()
    assert live.now == 44 + 40 + 0  # the gradient of x
    assert y.view(2, 5).untyped_storage().nbytes() == 40  # a view is no memory of its own


@pytest.mark.parametrize(("passes", "terms"), [(1, 3), (2, 1), (2, 3)])
def test_bytes_of_gradient_shares(passes, terms):
    """Counted while shares of a layer of 100 x 100 are measured; its own gradients lie there already."""
    with torch.device("meta"):
        layer, x = torch.nn.Linear(100, 100, bias=False), torch.empty(1, 100)
    n, shares, live = 10_000, GradientShares(1), LiveBytes(layer.parameters())
    shares._measured_at, shares._single, shares._gradients = 0, passes == 1, {}
    with live:
        for _ in range(passes):
            values = {f"t{i}": layer(x).sum(1) * (i + 1) for i in range(terms)}
            shares.add(LossOutput(values["t0"], values, {}), dict.fromkeys(values, 1.0), layer.parameters())
    assert live.peak == pytest.approx(bytes_of_shares(n, 4 * n, terms, passes > 1), rel=0.15)


def test_a_half_precision_product_on_a_cpu_without_units_makes_float32_copies():
    a = torch.empty(4, 8, device="meta", dtype=torch.bfloat16)
    b = torch.empty(8, 2, device="meta", dtype=torch.bfloat16)
    plain, copied = LiveBytes([a, b]), LiveBytes([a, b], in_float32=True)
    for live in (plain, copied):
        with live:
            c = a @ b
            del c
    assert plain.peak == 16
    assert copied.peak == 16 + 4 * (32 + 16 + 8)


def peak_of(model, batch, device, tokenizer):
    base = Base(model, tokenizer, "toy", "toy") if device == "cpu" else None
    if base is None:
        from innerpo.model.shape import Shape

        base = Shape(model, tokenizer, "toy", "toy", loaded=ModelConfig())
    with torch.device(device):
        policy = add_adapter(base, ModelConfig(lora_r=4), 1)
    trained = [p for p in policy.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    request = StateRequest((1, 2), token_states=True)
    sequence_outputs(base.model, batch, request) if device == "cpu" else None  # finds out what the head does
    live = LiveBytes([*policy.parameters(), *(p.grad for p in trained), *policy.buffers()])
    with as_on(torch.device("cpu"), base.model), live:
        out = sequence_outputs(policy, batch.to(device), request)
        (out.logps.sum() + out.token_states.square().sum()).backward()
    return live.peak


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_meta_tensors_count_as_the_tensors_of_a_real_step(family, items, tokenizer):
    """The same code on tensors with data, counted in the same way, holds the same bytes at its peak."""
    batch = make_batch(items[:4], "one_row", 0)
    real = peak_of(build_model(family, attn_implementation="sdpa"), batch, "cpu", tokenizer)
    with torch.device("meta"):
        shape = build_model(family, attn_implementation="sdpa")
    assert peak_of(shape, batch, "meta", tokenizer) == pytest.approx(real, rel=0.02)


def test_optimisers():
    names = ("adamw_torch_fused", "adamw_bnb_8bit", "sgd", "lion_32bit", "adafactor")
    assert [optimiser_states(name) for name in names] == [2.0, 0.5, 0.0, 1.0, 0.0]


# -- the largest micro-batch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "most"), [("one_row", 100), ("one_row", 300), ("concatenated", 200), ("one_row", 0)]
)
def test_the_largest_micro_batch_is_the_largest_that_training_makes(layout, most, tokenizer):
    config = default_run("dpo")
    config = replace(config, data=replace(config.data, batch_size=5), training=replace(config.training, max_steps=7))
    items = PairTokenizer(tokenizer, 64, 64).training_items(make_pairs(24))
    n = sum(len(i.responses) for i in items)
    n_tokens = sum(len(r) for i in items for r in i.responses)
    reference = Reference(items, torch.zeros(n), torch.zeros(n, dtype=torch.long), token_logps=torch.zeros(n_tokens))
    collate = PairCollator(items, reference, layout, 0, most)
    made = [part for step in first_steps(24, 5, 1, 7) for part in collate(step)["micro_batches"]]
    group = largest_group(config, items, {}, layout, most)
    assert group.tokens == max(part.tokens.input_ids.numel() for part in made)
    assert make_batch(list(group.items), layout, 0).input_ids.numel() == group.tokens


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def words(toy_folder, tmp_path):
    places = (f"--output_dir={tmp_path / 'out'}", f"--data.cache_dir={tmp_path / 'cache'}")
    return [f"--model.base_model={toy_folder}", "--data.dataset=embedded:longer", "--eval.max_prompts=4", *places]


def test_it_shows_what_a_run_would_do_and_writes_nothing(words, tmp_path, capsys):
    code = main(["train", "innerpo", "--dry-run", "--data.max_prompt_tokens=10", "--data.max_train_prompts=20", *words])
    shown = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    for part in (
        "layers: 1, 2 of 0 to 3",
        "steps: 3 of 8 pairs (epochs=1, 20 pairs of embedded:longer)",
        "scored: oos: ",
        "prompt tokens of the training pairs: median ",
        "longer than the limit",
        "cut to 10 tokens on the left: 20 of 20, which lose ",
        "cut to 512 tokens: none",
        "activations of a step",
        "peak: ",
        "time on this machine's cpu: about reference ",
        "config.json; weights are not read",
    ):
        assert part in shown, part


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--method.layers=9", "there is no layer 9"),
        ("--data.dataset=embedded:fnord", "unknown embedded data set 'fnord'"),
        ("--eval.oos_dataset=embedded:fnord", "unknown embedded data set 'fnord'"),
        ("--model.target_modules=fnord", "fits no module"),
        ("--method.site=fnord", "fnord"),
        ("--training.optim=fnord", "transformers refuses the training options"),
        ("--model.base_model=no/where", "cannot find the configuration of the base model 'no/where'"),
        ("--eval.ref_model=no/where", "eval.ref_model: cannot find the configuration of the base model 'no/where'"),
    ],
)
def test_what_would_stop_a_run_stops_the_dry_run(flag, says, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = flag.split("=")[0]
    options = [w for w in words if not w.startswith(f"{name}=")]
    assert main(["train", "innerpo", "--dry-run", flag, *options]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model.adapt_layers=2,3", "--method.layers=1"], "no gradient would reach the adapter"),
        (["--model.compile=on", "--method.site=mlp"], "model.compile=on would skip the hooks of this method's site"),
        (["--method.transform=ether", "--method.subspace.ether_blocks=7"], "does not divide the hidden size"),
        (["--method.transform=svd", "--method.subspace.rank=1000"], "method.subspace.rank is 1000, but the model's"),
        (["--method.transform=supr", "--method.subspace.supr_k=1000"], "method.subspace.supr_k is 1000, but"),
        (["--method.transform=supr", "--method.subspace.supr_k=32"], "supr_k=32 drops all 32 dimensions"),
    ],
)
def test_options_that_do_not_fit_the_model_stop_it(flags, says, words, tmp_path, capsys):
    assert main(["train", "innerpo", "--dry-run", *flags, *words]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_this_machine_cannot_do_and_another_may_is_said(words, tmp_path, capsys, monkeypatch):
    """A sweep is planned where its jobs are submitted, which need not have the device that they get."""
    monkeypatch.setattr("innerpo.model.numerics.hardware.multiplies_in_float32", lambda *_: True)
    flags = ["--model.load_in_4bit", "--model.compile=on", "--model.dtype=bfloat16", "--eval.ref_model=smollm2-135m"]
    assert main(["train", "dpo", "--dry-run", *flags, *words]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "model.load_in_4bit needs a CUDA device, and this machine has none" in shown
    assert "the run would fail here: --model.compile=on does not go with torch.bfloat16" in shown
    assert "the time of scoring --eval.ref_model is not counted" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_taken_stops_it(words, tmp_path, capsys):
    config = default_run("dpo")
    folder = tmp_path / "out"
    model, data = (
        replace(config.model, base_model=words[0].split("=")[1]),
        replace(config.data, dataset="embedded:longer"),
    )
    run = replace(config, model=model, data=data, output_dir=folder).run_dir
    run.mkdir(parents=True)
    (run / "note.txt").write_text("mine")
    assert main(["train", "dpo", "--dry-run", *words]) == 2
    assert "is not a run of innerpo" in capsys.readouterr().err


@pytest.fixture
def toy_memory(toy_folder, items):
    def memory(method="dpo", device="cpu", **changes):
        config = default_run(method)
        config = replace(config, model=replace(config.model, base_model=str(toy_folder), dtype="float32"))
        for name, value in changes.items():
            section, field = name.split("__")
            config = replace(config, **{section: replace(getattr(config, section), **{field: value})})
        shape = load_shape(config.model, Path("none"), torch.device(device))
        made = build_method(config.method, (1, 2) if config.method.reads_states else ())
        return memory_of(config, shape, made, items[:4], items[:4], torch.device(device))

    return memory


def test_parts_of_the_memory(toy_memory):
    plain = toy_memory()
    model = build_model()
    assert plain.weights == 4 * sum(p.numel() for p in model.parameters())
    assert plain.optimiser == 2 * plain.gradients == 2 * plain.adapter == 8 * plain.trained
    assert plain.training == plain.on_device
    assert plain.in_process > plain.libraries + plain.training
    drift = toy_memory("innerpo", training__gradient_checkpointing=True)
    assert drift.step < plain.step
    assert drift.kept > plain.kept
    cuda = toy_memory("mismatch", device="cuda", data__micro_batch_tokens=64)
    assert cuda.tokens > 64  # a pair with its companion
    assert cuda.in_process == cuda.libraries + max(cuda.kept, cuda.weights + cuda.loading)


@pytest.mark.slow
def test_parts_of_the_memory_of_other_runs(toy_memory):
    plain, drift = toy_memory(), toy_memory("innerpo")
    assert toy_memory(training__gradient_checkpointing=True).step < plain.step < drift.step
    assert toy_memory(data__micro_batch_tokens=64).step < plain.step
    assert toy_memory("innerpo", data__token_cache_gb=0.0).kept < drift.kept
    full = toy_memory(model__lora_r=0)
    assert full.adapter == full.weights
    assert toy_memory("mismatch").tokens > plain.tokens  # companions run beside the pairs
    assert toy_memory(model__load_in_4bit=True).weights < plain.weights
    assert toy_memory("probe").step == 0


def test_a_plan_is_a_record(words):
    config = default_run("innerpo")
    folder, cache = (w.split("=")[1] for w in words[-2:])
    model = replace(config.model, base_model=words[0].split("=")[1])
    data = replace(config.data, dataset="embedded:longer", max_train_prompts=20, cache_dir=Path(cache))
    run = replace(config, model=model, data=data, eval=replace(config.eval, skip=True), output_dir=Path(folder))
    plan = plan_run(replace(run, training=replace(run.training, max_steps=2)))
    assert (plan.n_pairs, plan.steps, plan.pairs_per_step, plan.n_seen, plan.sets) == (20, 2, 8, 16, ())
    assert plan.available > 0
    assert plan.seconds["scoring"] == 0.0 < plan.seconds["training"]


# -- against real runs -------------------------------------------------------------------------------------------------


def long_pairs(folder):
    """Pairs of long prompts and responses, all of one length."""
    path, words = folder / "long.jsonl", ["the", "cat", "sat", "on", "a", "mat", "and", "ran", "to", "its", "house"]
    text = [" ".join(words[(i * k) % len(words)] for k in range(150)) for i in range(1, 40)]
    rows = [
        {"prompt": a, "chosen": f" {b}", "rejected": f" {c}", "split": "train"}
        for a, b, c in zip(text, text[1:], text[2:], strict=False)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


PEAK = """
import sys
from innerpo.cli.verbs import main
code = main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("method", "dataset", "options"),
    [
        ("dpo", "embedded:compare", ["--data.batch_size=16"]),
        ("innerpo", None, ["--data.batch_size=4", "--data.micro_batch_tokens=2000"]),
    ],
    ids=["short", "long"],
)
def test_the_memory_of_a_real_run_is_within_20_percent(method, dataset, options, tmp_path):
    words = ["train", method, f"--data.dataset={dataset or long_pairs(tmp_path)}", *options]
    words += ["--model.dtype=float32", "--training.max_steps=2", "--training.save_steps=0", "--eval.skip"]
    words += ["--data.max_train_prompts=24", f"--output_dir={tmp_path / 'out'}"]
    if not Path("/proc/self/status").is_file():
        pytest.skip("resident memory is read from /proc")

    def run(*more):
        command = [sys.executable, "-c", PEAK, *words, *more]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ.copy())
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    shown = run("--dry-run")
    number, unit = next(line.split()[1:3] for line in shown.splitlines() if line.startswith("peak: "))
    estimate = float(number) * {"GB": 1e9, "MB": 1e6}[unit]
    measured = int(run().split()[-1]) * 1024
    print(f"estimate {estimate / 1e9:.2f} GB, measured {measured / 1e9:.2f} GB")
    assert estimate == pytest.approx(measured, rel=0.2)
