"""Merged models: logits of base + adapter, plain transformers, one line for what cannot be merged, nothing left."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import innerpo
from conftest import build_model, build_tokenizer
from innerpo.cli import main
from innerpo.methods.method import Method
from innerpo.model.adapters import load_adapter
from innerpo.model.loading import load_base
from innerpo.sharing import merge as module
from innerpo.training.artifacts import save_run
from sharing_helpers import move, toy_run


@pytest.fixture(scope="module")
def run(toy_folder, tmp_path_factory):
    """The folder of a toy run whose adapter does something."""
    return toy_run(tmp_path_factory.mktemp("merge"), toy_folder)


def logits(model, tokenizer, text="Question: which is larger, 3 or 7?\nAnswer: 7"):
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits


def test_a_merged_model_loads_in_plain_transformers_and_has_the_logits_of_base_and_adapter(run, toy_folder, tmp_path):
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    assert main(["merge", str(run), str(tmp_path / "merged"), "--dtype=float32"]) == 0
    model, tokenizer = (kind.from_pretrained(tmp_path / "merged") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert type(model).__name__ == "LlamaForCausalLM"
    base = load_base(innerpo.ModelConfig(str(toy_folder), dtype="float32"), tmp_path / "cache")
    plain = logits(base.model, base.tokenizer)
    policy = load_adapter(base, run)
    wanted, found = logits(policy, base.tokenizer), logits(model, tokenizer)
    assert (wanted - plain).abs().max() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
    assert tokenizer.chat_template == base.tokenizer.chat_template
    assert model.generation_config.eos_token_id == 1
    assert "base_model" not in (tmp_path / "merged/README.md").read_text().split("---")[1]  # a folder is no Hub name
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_sum_is_made_in_float32_and_rounded_once(run, toy_folder, tmp_path, dtype):
    merged = innerpo.merge(run, tmp_path / "merged", dtype=dtype)
    assert merged.dtype == dtype
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    base = load_base(innerpo.ModelConfig(str(toy_folder), dtype="float32"), tmp_path / "cache")
    weights = {n: p.clone() for n, p in base.model.state_dict().items()}
    policy = load_adapter(base, run)
    changed = 0
    for name, layer in policy.base_model.model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            weights[f"{name}.weight"] += layer.get_delta_weight("default")
            changed += 1
    assert changed == 28
    for name, weight in found.items():
        assert torch.equal(weight, weights[name].to(getattr(torch, dtype))), name


def test_auto_is_the_type_in_which_the_base_is_stored(tmp_path, toy_folder, run):
    stored = tmp_path / "half"
    build_model().to(torch.bfloat16).save_pretrained(stored)
    build_tokenizer().save_pretrained(stored)
    assert innerpo.merge(run, tmp_path / "a").dtype == "float32"
    half = toy_run(tmp_path, stored)
    assert innerpo.merge(half, tmp_path / "b").dtype == "bfloat16"
    assert json.loads((tmp_path / "b/config.json").read_text())["dtype"] == "bfloat16"


def refused(capsys, words, *says):
    assert main(words) == 2
    err = " ".join(capsys.readouterr().err.split("error:")[-1].split())
    for part in says:
        assert part in err, err


def test_what_cannot_be_merged_is_one_line_and_leaves_nothing(run, toy_folder, tmp_path, capsys):
    out = tmp_path / "out" / "merged"
    full = toy_run(tmp_path / "full", toy_folder, **{"model.lora_r": 0})
    refused(capsys, ["merge", str(full), str(out)], "full fine-tune: it is a whole model already")
    four = tmp_path / "four"
    four.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "run.json", "config.yaml"):
        (four / name).write_bytes((run / name).read_bytes())
    config = (four / "config.yaml").read_text()
    (four / "config.yaml").write_text(config.replace("load_in_4bit: false", "load_in_4bit: true"))
    refused(capsys, ["merge", str(four), str(out)], "in 4 bits (--model.load_in_4bit)")
    other = tmp_path / "other"
    move(build_model(), 0.1).save_pretrained(other)
    build_tokenizer().save_pretrained(other)
    (four / "config.yaml").write_text(config.replace(str(toy_folder), str(other)))
    refused(capsys, ["merge", str(four), str(out)], "with other weights (fingerprint")
    refused(capsys, ["merge", str(tmp_path), str(out)], "holds no adapter_config.json")
    refused(capsys, ["merge", str(run), str(tmp_path)], "exists already; give a new folder")
    assert not out.parent.exists()


def test_the_working_directory_is_refused_before_anything_is_computed(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "load_base", None)  # loading would fail
    refused(capsys, ["merge", str(run), "."], ". is the working directory, which cannot be replaced; give a new folder")
    assert not list(tmp_path.iterdir())


def test_what_appears_in_the_folder_during_a_merge_is_not_deleted(run, tmp_path, monkeypatch):
    def slowly(*_):
        (tmp_path / "merged").mkdir()
        (tmp_path / "merged/theirs.txt").write_text("hours of work")
        return ""

    monkeypatch.setattr(module, "_card", slowly)
    with pytest.raises(innerpo.UserError, match="merged was written to meanwhile"):
        innerpo.merge(run, tmp_path / "merged")
    assert [p.name for p in tmp_path.rglob("*")] == ["merged", "theirs.txt"]


def test_saving_a_run_leaves_a_folder_named_adapter_alone(tmp_path):
    method = Method(innerpo.run_config("probe").method, {}, {}, ())
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/theirs.txt").write_text("hours of work")
    save_run(tmp_path, None, None, method, {"steps": 0}, "# Card\n")
    assert (tmp_path / "adapter/theirs.txt").read_text() == "hours of work"
    assert {p.name for p in tmp_path.iterdir()} == {"adapter", "README.md", "run.json"}


def test_what_a_tracker_wrote_beside_the_checkpoints_stays(tmp_path):
    """transformers gives its own trackers that folder (CodeCarbon's emissions.csv); the checkpoints go."""
    method = Method(innerpo.run_config("probe").method, {}, {}, ())
    left = ("checkpoint-2/model.bin", ".partial/optimizer.pt", "emissions.csv")  # .partial: killed while it was written
    for name in (f"checkpoints/{file}" for file in left):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    save_run(tmp_path, None, None, method, {"steps": 0}, "# Card\n")
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["emissions.csv"]
    (tmp_path / "checkpoints/emissions.csv").unlink()
    save_run(tmp_path, None, None, method, {"steps": 0}, "# Card\n")
    assert not (tmp_path / "checkpoints").exists()


def test_an_interrupted_merge_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_card", interrupt)
    with pytest.raises(KeyboardInterrupt):
        innerpo.merge(run, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_values_beyond_float16_are_refused(tmp_path, toy_folder, run, monkeypatch):
    def large(base, policy):
        base.model.lm_head.weight.data[0, 0] = 1e6
        return base.model

    monkeypatch.setattr(module, "merge_adapter", large)
    with pytest.raises(innerpo.UserError, match=r"lm_head.weight has values that float16 cannot hold"):
        innerpo.merge(run, tmp_path / "merged", dtype="float16")
    assert not (tmp_path / "merged").exists()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings", "ignore:Setting `save_embedding_layers")
def test_an_adapter_on_tied_embeddings_is_refused(tmp_path, capsys):
    tied = tmp_path / "tied"
    build_model(tie_word_embeddings=True).save_pretrained(tied)
    build_tokenizer().save_pretrained(tied)
    folder = toy_run(tmp_path, tied, **{"model.target_modules": "embed_tokens"})
    refused(capsys, ["merge", str(folder), str(tmp_path / "merged")], "which share their weights; it cannot be merged")
    assert not (tmp_path / "merged").exists()


def test_a_combined_adapter_is_merged(run, toy_folder, tmp_path):
    innerpo.combine([run, run], [0.5, 0.25], tmp_path / "sum")
    innerpo.merge(tmp_path / "sum", tmp_path / "merged")
    innerpo.merge(run, tmp_path / "whole")
    names = ("sum", "base", "whole")
    folders = dict(zip(names, (tmp_path / "merged", toy_folder, tmp_path / "whole"), strict=True))
    w = {n: AutoModelForCausalLM.from_pretrained(f).state_dict() for n, f in folders.items()}
    for name, weight in w["sum"].items():
        wanted = 0.25 * w["base"][name] + 0.75 * w["whole"][name]
        torch.testing.assert_close(weight, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_merged_smollm2_has_the_logits_of_base_and_adapter(tmp_path):
    base = innerpo.load_base("smollm2-135m", dtype="float32")
    run = innerpo.train(base, "dpo", data="embedded:compare", **SHORT, **{"output_dir": tmp_path})
    loaded = innerpo.load(run.folder, base)
    move(loaded.policy, 0.02, "lora_B")
    loaded.policy.save_pretrained(run.folder)
    wanted = logits(loaded.policy, base.tokenizer)
    with loaded.policy.disable_adapter():
        plain = logits(loaded.policy, base.tokenizer)
    innerpo.remove_adapter(base, loaded.policy)
    innerpo.merge(run.folder, tmp_path / "merged", dtype="float32")
    model, tokenizer = (kind.from_pretrained(tmp_path / "merged") for kind in (AutoModelForCausalLM, AutoTokenizer))
    found = logits(model, tokenizer)
    assert (wanted - plain).abs().max() > 0.5
    print("largest difference of logits:", (found - wanted).abs().max().item())
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


SHORT = {
    "data.max_train_prompts": 8,
    "data.batch_size": 4,
    "training.max_steps": 1,
    "training.grad_share_steps": 0,
    "eval.skip": True,
}
