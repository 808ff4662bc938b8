"""LoRA adapters as GGUF: what gguf's own reader finds is the update, in GGUF's names and order of rows."""

import json
import shutil

import pytest
import torch
from gguf import GGUFReader

import innerpo
from conftest import build_model, build_tokenizer
from innerpo.cli import main
from innerpo.model.lora_sum import Factors
from innerpo.sharing.gguf_lora import FAMILIES, gguf_tensors, permuted
from innerpo.training.lora_files import read_update
from sharing_helpers import toy_run

PLACES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="module", params=["llama", "qwen", "gemma"])
def exported(request, tmp_path_factory):
    """A toy model, the update of a run on it, and the run as GGUF."""
    root = tmp_path_factory.mktemp(request.param)
    model = build_model(request.param)
    model.save_pretrained(root / "base")
    build_tokenizer().save_pretrained(root / "base")
    run = toy_run(root, root / "base")
    assert main(["export", str(run), str(root / "out"), "--to=gguf"]) == 0
    return request.param, model, run, root / "out" / "adapter.gguf"


def updates(path):
    """scale B A of every tensor of an adapter file, by llama.cpp's rule: scale = alpha / rank."""
    reader = GGUFReader(path)
    alpha = reader.get_field("adapter.lora.alpha").contents()
    held = {t.name: torch.from_numpy(t.data.copy()) for t in reader.tensors}
    names = {name.removesuffix(".lora_a").removesuffix(".lora_b") for name in held}
    return {n: alpha / len(held[f"{n}.lora_a"]) * held[f"{n}.lora_b"] @ held[f"{n}.lora_a"] for n in names}


def converted(weight, heads):
    """A query or key projection as llama.cpp's converter stores it, by hand: of each head, row i then row i + half."""
    size = len(weight) // heads
    rows = [h * size + i + half for h in range(heads) for i in range(size // 2) for half in (0, size // 2)]
    return weight[rows]


def test_the_merged_weight_in_gguf_is_base_plus_what_the_file_says(exported, tmp_path):
    family, model, run, path = exported
    found, own = updates(path), read_update(run)
    assert len(found) == len(own) == 28
    heads = {"attn_q": 4, "attn_k": 2} if family == "llama" else {}
    innerpo.merge(run, tmp_path / "merged", dtype="float32")
    merged = type(model).from_pretrained(tmp_path / "merged").state_dict()
    for block in range(4):
        for theirs, name in PLACES.items():
            base, whole = (w[f"model.layers.{block}.{theirs}.weight"] for w in (model.state_dict(), merged))
            if name in heads:
                base, whole = converted(base, heads[name]), converted(whole, heads[name])
            assert (whole - base).abs().max() > 0.01
            torch.testing.assert_close(base + found[f"blk.{block}.{name}.weight"], whole, atol=1e-5, rtol=1e-5)


def test_the_header_is_what_llama_cpp_asks_for(exported):
    family, _, run, path = exported
    reader = GGUFReader(path)
    keys = ("general.type", "general.architecture", "adapter.type", "general.name")
    found = [reader.get_field(key).contents() for key in keys]
    assert found == ["adapter", {"llama": "llama", "qwen": "qwen3", "gemma": "gemma3"}[family], "lora", run.name]
    assert {t.tensor_type.name for t in reader.tensors} == {"F32"}
    shapes = {t.name: tuple(t.shape) for t in reader.tensors}  # as ggml has them: the inner dimension first
    assert shapes["blk.0.attn_k.weight.lora_a"] == (32, 16)
    assert shapes["blk.0.attn_k.weight.lora_b"] == (16, 16)


def test_rows_by_hand():
    rows = torch.arange(8.0)[:, None]
    assert permuted(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_modules_of_different_ranks_have_one_scale(exported):
    g = torch.Generator().manual_seed(0)
    shapes = {"q_proj": (32, 2), "o_proj": (32, 5)}
    update = {
        f"model.layers.1.self_attn.{n}": Factors(torch.randn(out, r, generator=g), torch.randn(r, 32, generator=g))
        for n, (out, r) in shapes.items()
    }
    held = gguf_tensors(update, build_model("qwen").config, FAMILIES["qwen3"])
    for module, name in (("q_proj", "attn_q"), ("o_proj", "attn_output")):
        a, b = (held[f"blk.1.{name}.weight.lora_{x}"] for x in "ab")
        factors = update[f"model.layers.1.self_attn.{module}"]
        torch.testing.assert_close(5 / len(a) * b @ a, factors.up @ factors.down)


def refused(capsys, words, *says):
    assert main(words) == 2
    err = " ".join(capsys.readouterr().err.split("error:")[-1].split())
    for part in says:
        assert part in err, err


def test_what_cannot_be_written_is_one_line(exported, toy_folder, tmp_path, capsys):
    _, _, run, _ = exported
    out = tmp_path / "out"
    refused(capsys, ["export", str(run), str(out), "--to=onnx"], "--to is gguf, not 'onnx'")
    refused(capsys, ["export", str(run), "--to=gguf"], "innerpo export needs DIR")
    full = toy_run(tmp_path / "full", toy_folder, **{"model.lora_r": 0})
    refused(capsys, ["export", str(full), str(out), "--to=gguf"], "full fine-tune")
    here = tmp_path / "run"
    here.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (here / file.name).write_bytes(file.read_bytes())
    config = json.loads((here / "adapter_config.json").read_text())
    (here / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    refused(capsys, ["export", str(here), str(out), "--to=gguf"], "so it is no plain LoRA")
    (here / "adapter_config.json").write_text(json.dumps(config))
    base = tmp_path / "base"
    base.mkdir()
    for file in (run.parent / "base").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    text = (base / "config.json").read_text()
    kind = json.loads(text)["model_type"]
    (base / "config.json").write_text(text.replace(f'"{kind}"', '"gpt_neox"'))
    text = (here / "config.yaml").read_text()
    (here / "config.yaml").write_text(text.replace(str(run.parent / "base"), str(base)))
    refused(
        capsys, ["export", str(here), str(out), "--to=gguf"], "adapters of 'gpt_neox' models are not written", "llama"
    )
    assert not out.exists()


def test_an_adapter_on_a_base_in_4_bits_is_written(exported, tmp_path, capsys):
    """Nothing is merged: llama.cpp puts it on a base in any quantisation."""
    _, _, run, path = exported
    here = shutil.copytree(run, tmp_path / "run")
    text = (here / "config.yaml").read_text()
    (here / "config.yaml").write_text(text.replace("load_in_4bit: false", "load_in_4bit: true"))
    assert main(["export", str(here), str(tmp_path / "out"), "--to=gguf"]) == 0
    found, own = updates(tmp_path / "out" / "adapter.gguf"), updates(path)
    assert all(torch.equal(found[name], own[name]) for name in own)
    refused(capsys, ["merge", str(here), str(tmp_path / "merged")], "in 4 bits")


@pytest.mark.parametrize("module", ["lm_head", "model.embed_tokens", "model.layers.0.self_attn.strange"])
def test_only_blocks_have_a_place(module):
    update = {module: Factors(torch.ones(4, 1), torch.ones(1, 4))}
    with pytest.raises(innerpo.UserError, match=f"the adapter is on {module}, which has no place"):
        gguf_tensors(update, build_model().config, FAMILIES["llama"])


def test_every_family_is_an_architecture_of_gguf():
    import gguf
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert {f.architecture for f in FAMILIES.values()} <= set(gguf.MODEL_ARCH_NAMES.values())
    assert set(FAMILIES) <= set(CONFIG_MAPPING_NAMES)
