"""Batches in several passes, compiled blocks, choices by hardware: the same gradients on any machine."""

from contextlib import ExitStack, nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import innerpo
from conftest import build_model
from innerpo.config.model import ModelConfig
from innerpo.config.run import default_run
from innerpo.data.batching.batch import make_batch
from innerpo.data.batching.order import by_prompt, length_batches, rows_of, token_batches
from innerpo.errors import UserError
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base
from innerpo.model.forward.outputs import StateRequest, sequence_outputs
from innerpo.model.numerics import hardware
from innerpo.model.numerics.hardware import (
    activation_bytes,
    choose_attention,
    choose_compile,
    choose_dtype,
    choose_micro_batch_tokens,
    compiled_blocks,
    cpu_quota,
    limit_threads,
    multiplies_in_float32,
)
from innerpo.run import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_token_batches_by_hand():
    rows = [(1, 5), (1, 9), (2, 4), (1, 3), (1, 30)]
    assert token_batches(rows, 20, "one_row") == [[4], [1, 0], [2, 3]]  # 30 alone; 2 x 9; (2 + 1) x 4
    assert token_batches([(1, 9)] * 5, 28, "one_row") == [[0, 1, 2], [3, 4]]  # two batches, and no fuller than need be
    assert token_batches([(1, 9)] * 6, 50, "one_row") == [[0, 1, 2], [3, 4, 5]]
    assert token_batches(rows, 0, "one_row") == [[4, 1, 0, 2, 3]]
    assert token_batches([], 8, "one_row") == []


def test_rows_are_those_of_the_batch(items):
    for layout in ("one_row", "concatenated"):
        for item in items:
            batch = make_batch([item], layout, 0)
            assert rows_of(item, layout) == tuple(batch.input_ids.shape)


def test_token_batches_hold_every_item_once_and_keep_the_limit(items):
    rows = [rows_of(i, "concatenated") for i in items]
    batches = token_batches(rows, 150, "concatenated")
    assert sorted(i for b in batches for i in b) == list(range(len(items)))
    assert all(sum(rows[i][0] for i in b) * max(rows[i][1] for i in b) <= 150 for b in batches)
    assert 1 < len(batches) < len(items)
    assert [i for b in batches for i in b] == [i for b in length_batches([n for _, n in rows], 3) for i in b]


def toy_config(name, toy_folder, tmp_path, **data):
    config = default_run(name)
    where = tmp_path / "-".join(f"{k}{v}" for k, v in data.items()) if data else tmp_path / "plain"
    return replace(
        config,
        method=replace(config.method, layers="1,2"),
        model=replace(config.model, base_model=str(toy_folder), lora_r=4, dtype="float32"),
        data=replace(
            config.data, dataset="embedded:longer", max_train_prompts=24, cache_dir=tmp_path / "cache", **data
        ),
        training=replace(config.training, lr=5e-3, max_steps=4, save_steps=0, log_steps=1, grad_share_steps=2),
        eval=replace(config.eval, skip=True),
        output_dir=where,
    )


@pytest.mark.parametrize("name", ["dpo", "innerpo-none", "projgrad", "projbp"])
def test_several_passes_train_the_adapter_of_one(name, toy_folder, tmp_path):
    """Same pairs, same order, same steps: only the sum's order differs. Logs and gradient shares agree too."""
    adapters, logs = [], []
    for micro_batch_tokens in (100_000, 120):
        config = toy_config(name, toy_folder, tmp_path, micro_batch_tokens=micro_batch_tokens)
        folder = train(config).folder
        adapters.append(load_file(folder / "adapter_model.safetensors"))
        logs.append((folder / "metrics.jsonl").read_text().splitlines())
    for key, value in adapters[0].items():
        torch.testing.assert_close(value, adapters[1][key], rtol=1e-3, atol=1e-5)
    assert any(value.abs().sum() > 0 for key, value in adapters[0].items() if "lora_B" in key)
    import json

    for one, several in zip(*logs, strict=True):
        a, b = json.loads(one), json.loads(several)
        a, b = ({k: v for k, v in d.items() if "runtime" not in k and "per_second" not in k} for d in (a, b))
        for line in (a, b):
            line.pop("rewards/accuracies", 0)  # signs of margins that are still near 0: rounding
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
    assert "grad_share/output" in logs[0][0]


def test_passes_are_really_made(toy_folder, tmp_path, monkeypatch):
    from innerpo.training import trainer

    shapes = []
    plain = trainer.sequence_outputs
    monkeypatch.setattr(
        trainer, "sequence_outputs", lambda m, batch, s: shapes.append(batch.input_ids.numel()) or plain(m, batch, s)
    )
    train(toy_config("dpo", toy_folder, tmp_path, micro_batch_tokens=150))
    assert len(shapes) > 4
    assert max(shapes) <= 150


def test_a_shared_beginning_changes_no_number(family, items):
    """Log-probs, states and gradients are those of a row of its own for every item."""
    model, request = build_model(family), StateRequest((0, 3), token_states=True)
    items = [replace(item, prompt=(*range(40, 55), *item.prompt)) for item in items]
    items = [items[i] for i in by_prompt(items, range(len(items)))]
    found, shapes = [], []
    for row_tokens in (0, 512):
        model.zero_grad()
        batch = make_batch(items, "one_row", 0, row_tokens)
        shapes.append(batch.input_ids.shape)
        out = sequence_outputs(model, batch, request)
        (out.logps.sum() + out.pooled.square().sum()).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append([out.logps.detach(), out.pooled.detach(), out.token_states.detach(), *gradients])
    assert shapes[1].numel() < 0.8 * shapes[0].numel()
    for alone, shared in zip(*found, strict=True):
        torch.testing.assert_close(alone, shared, rtol=1e-3, atol=1e-4 * max(1.0, alone.abs().max().item()))


def compiled_without_a_compiler(monkeypatch):
    plain = torch.compile
    monkeypatch.setattr(hardware.torch, "compile", lambda f, **options: plain(f, backend="aot_eager", **options))


# dynamo looks at .grad of a block's input
LOOKED_AT_GRAD = "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"


@pytest.mark.filterwarnings(LOOKED_AT_GRAD)
@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma", "llama", "qwen"])
def test_compiled_blocks_give_the_same_states_and_gradients(family, items, monkeypatch):
    """Traced and differentiated ahead of time; hooks still read the states. (The C++ backend: a slow test.)"""
    compiled_without_a_compiler(monkeypatch)
    check_compiled(build_model(family), items)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when it loads its C++ backend
@pytest.mark.filterwarnings(LOOKED_AT_GRAD)
def test_blocks_compiled_to_machine_code_give_the_same(items, tmp_path, monkeypatch):
    """Also where torch's disk cache holds code that overwrites what a second pass back needs."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = build_model()
    with ExitStack() as stack:
        for block in hardware.decoder_blocks(model):
            stack.enter_context(hardware.forward_replaced(block, torch.compile(block.forward, dynamic=True)))
        sequence_outputs(model, make_batch(items[:3], "one_row", 0), STATES).pooled.sum().backward()
    check_compiled(model, items)


@pytest.mark.slow
@pytest.mark.filterwarnings(LOOKED_AT_GRAD)
def test_blocks_before_the_first_that_is_trained_are_left_uncompiled(monkeypatch, toy_folder, pairs_file, tmp_path):
    """Under checkpointing torch (2.13) cannot compile a block without gradients: "does not support RNG ops"."""
    compiled_without_a_compiler(monkeypatch)
    options = {
        "model.base_model": str(toy_folder),
        "model.adapt_layers": "range(2,4)",
        "model.compile": "on",
        "model.attention": "sdpa",
        "method.layers": "0,3",
        "training.gradient_checkpointing": True,
        "training.max_steps": 2,
        "data.batch_size": 2,
        "data.cache_dir": tmp_path / "cache",
        "eval.skip": True,
    }
    run = innerpo.train(method="innerpo", data=str(pairs_file), output_dir=tmp_path, **options)
    assert (run.folder / "adapter_model.safetensors").exists()


STATES = StateRequest((1, 3), token_states=True)


def check_compiled(model, items):
    found = []
    for compiled in (False, True):
        for size in (3, 4):  # two shapes
            batch = make_batch(items[:size], "one_row", 0)
            model.zero_grad()
            with compiled_blocks(model) if compiled else nullcontext():
                out = sequence_outputs(model, batch, STATES)
                loss = out.logps.sum() + out.pooled.sum()
                # as gradient shares do: another pass back over the graph, before that of the step
                trained = list(model.parameters())
                again = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
                loss.backward()
            gradients = [p.grad.clone() for p in trained if p.grad is not None]
            torch.testing.assert_close([g for g in again if g is not None], gradients)
            found.append([out.logps.detach(), out.pooled.detach(), out.token_states.detach(), *gradients])
    for plain, traced in zip(found[:2], found[2:], strict=True):
        for a, b in zip(plain, traced, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * a.abs().max().item())
    assert not [b for b in hardware.decoder_blocks(model) if "forward" in b.__dict__]


def test_choices_and_their_reasons(monkeypatch):
    monkeypatch.setattr(hardware.shutil, "which", lambda name: name)
    monkeypatch.setattr(hardware, "has_units", lambda *_: True)
    auto = ModelConfig()
    assert choose_attention(auto, torch.bfloat16, CPU).value == "eager"
    assert choose_attention(auto, torch.float32, CPU).value is None
    assert choose_attention(auto, torch.bfloat16, CUDA).value is None
    assert choose_attention(ModelConfig(attention="sdpa"), torch.bfloat16, CPU).value == "sdpa"
    assert not choose_compile(auto, torch.float32, CPU, 10_000).value
    assert not choose_compile(auto, torch.bfloat16, CPU, 199).value
    assert choose_compile(auto, torch.bfloat16, CPU, 200).value
    assert not choose_compile(auto, torch.bfloat16, CUDA, 10_000).value
    assert choose_compile(ModelConfig(compile="on"), torch.float32, CPU, 1).value
    assert not choose_compile(ModelConfig(compile="off"), torch.bfloat16, CPU, 10_000).value
    assert not choose_compile(auto, torch.bfloat16, CPU, 200, hooked=True).value
    with pytest.raises(UserError, match="would skip the hooks"):
        choose_compile(ModelConfig(compile="on"), torch.bfloat16, CPU, 200, hooked=True)
    monkeypatch.setattr(hardware.shutil, "which", lambda _: None)
    assert choose_compile(auto, torch.bfloat16, CPU, 200).reason == "there is no C++ compiler"
    monkeypatch.setattr(hardware, "has_units", lambda *_: False)
    assert "matrices in float32" in choose_compile(auto, torch.bfloat16, CPU, 200).reason
    with pytest.raises(UserError, match="without units for it"):
        choose_compile(ModelConfig(compile="on"), torch.bfloat16, CPU, 200)
    assert choose_compile(ModelConfig(compile="on"), torch.bfloat16, CUDA, 200).value
    assert choose_compile(ModelConfig(compile="on"), torch.float64, CPU, 200).value


@pytest.mark.parametrize(
    ("flags", "units"),
    [
        ("flags : fpu sse2 avx2 f16c", []),
        ("flags : avx512f avx512_bf16", [torch.bfloat16]),
        ("flags : amx_bf16 avx512_fp16", [torch.bfloat16, torch.float16]),
        ("Features : fp asimd asimdhp bf16", [torch.bfloat16, torch.float16]),
    ],
)
def test_units_of_processors(flags, units, tmp_path, monkeypatch):
    """What they cannot multiply goes through float32, whatever GPU stands beside them; float32 never does."""
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(hardware, "Path", lambda _: file)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    hardware.has_units.cache_clear()
    halves = [torch.bfloat16, torch.float16]
    try:
        assert [d for d in halves if hardware.has_units(d, "cpu")] == units
        assert [d for d in halves if not multiplies_in_float32(d, CPU)] == units
        assert not any(multiplies_in_float32(d, CUDA) for d in halves)
        assert not multiplies_in_float32(torch.float32, CPU)
        auto = ModelConfig()
        assert choose_dtype(auto, CPU) == (torch.bfloat16 if torch.bfloat16 in units else torch.float32)
        assert choose_dtype(auto, CUDA) == torch.bfloat16
        assert choose_dtype(replace(auto, lora_r=0), CUDA) == torch.float32
    finally:
        hardware.has_units.cache_clear()


def test_tokens_in_a_pass(monkeypatch):
    model = build_model().requires_grad_(False)  # 4 blocks, hidden 32, MLP 48, float32
    assert activation_bytes(model) == 4 * (8 * 32 + 4 * 48) * 4
    half = build_model().to(torch.bfloat16)
    assert activation_bytes(half) == 4 * ((6 * 32 + 4 * 48) * 2 + 2 * 32 * 4)
    half.config.quantization_config = {"load_in_4bit": True}
    assert activation_bytes(half) == 4 * ((6 * 32 + 4 * 48) * 2 + (6 * 32 + 48) * 4)
    assert choose_micro_batch_tokens(0, model).value == 1024
    assert choose_micro_batch_tokens(77, model).value == 77
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for free, tokens in ((2**40, 32768), (2**20, 2048), (int(1.5e9) + 7168 * 2 * 5000, 5000)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 2**40))
        assert choose_micro_batch_tokens(0, model).value == tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_of_memory_is_what_autograd_keeps(dtype, items, tokenizer):
    """Of states and MLP widths of the tokens, each storage once; neither weights nor attention's matrices count."""
    base = build_model(hidden_size=128, intermediate_size=256, head_dim=32, num_key_value_heads=4).to(dtype)
    policy = add_adapter(Base(base, tokenizer, "toy", "toy"), ModelConfig(lora_r=2), seed=1)
    batch = make_batch(items, "one_row", 0)
    n, kept = batch.input_ids.numel(), {}

    def pack(tensor):
        if tensor.numel() in (n * 128, n * 256):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    sequence_outputs(policy, batch)  # the first pass also compares whole logits
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sequence_outputs(policy, batch)
    found = sum(t.untyped_storage().nbytes() for t in kept.values()) / n
    assert found == pytest.approx(activation_bytes(policy), rel=0.1)


def test_threads_stay_within_the_container(tmp_path, monkeypatch):
    file = tmp_path / "cpu.max"
    for text, quota in (("max 100000", None), ("150000 100000", 1.5), ("", None)):
        file.write_text(text)
        assert cpu_quota(file) == quota
    assert cpu_quota(tmp_path / "none") is None
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(hardware, "cpu_quota", lambda: 2.5)
    assert limit_threads(0).value == 2
    assert limit_threads(3).value == 3
    monkeypatch.setattr(hardware, "cpu_quota", lambda: None)
    assert limit_threads(0).value == 8
    assert set_to == [2, 3]


def test_the_training_split_is_read_once(toy_folder, tmp_path, monkeypatch):
    from innerpo.data import training_pairs

    read = []
    plain = training_pairs.load_pairs
    monkeypatch.setattr(
        training_pairs, "load_pairs", lambda name, split, *rest: read.append(split) or plain(name, split, *rest)
    )
    config = toy_config("dpo", toy_folder, tmp_path)
    config = replace(config, eval=replace(config.eval, skip=False, max_prompts=4))
    facts = train(config).scores.responses
    assert read.count("train") == 1
    assert facts.filter(facts["set"] == "train")["prompt"].n_unique() == 4


def test_losses_that_were_not_looked_at_are_named_later():
    """On a GPU finiteness is looked at when a line is logged or a checkpoint written, not at every pass."""
    from types import SimpleNamespace

    from innerpo.training.trainer import PairTrainer

    trainer = object.__new__(PairTrainer)
    trainer.args = SimpleNamespace(learning_rate=1e-4)
    trainer._unchecked = [(2, ["a"], torch.ones(1)), (3, ["b", "c"], torch.tensor([1.0, float("nan")]))]
    with pytest.raises(UserError, match="not finite at step 3 for 1 of 2 pairs: c;"):
        trainer.check_losses()
    trainer.check_losses()  # what was looked at is not looked at again
