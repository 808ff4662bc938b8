"""Adapter arithmetic: weighted sums as one adapter, LiNeS, truncation; what the folder says, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors import safe_open

import innerpo
from conftest import build_model, run_in
from innerpo.cli import main
from innerpo.config.combined import read_combined
from innerpo.config.run import to_dict
from innerpo.config.yaml import as_yaml, check_training_set, config_of_folder, read_yaml
from innerpo.errors import UserError
from innerpo.evaluation.study import read_study
from innerpo.model.identity import fingerprint
from innerpo.model.lora_sum import Factors, by_depth, directions_for, truncated, weighted_sum
from innerpo.training import combine as module
from innerpo.training.combine import Arithmetic, combine_adapters

MODULES = ["q_proj", "down_proj"]


def adapter(folder, seed, embeddings=False, **changes):
    """A LoRA adapter with random factors; returns its updates as full matrices by the name of the module."""
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 6, "target_modules": MODULES, "init_lora_weights": False} | changes
    policy = peft.get_peft_model(build_model(), peft.LoraConfig(**options))
    policy.save_pretrained(folder, save_embedding_layers=embeddings)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "toy"}))
    return matrices(policy)


def matrices(policy):
    layers = policy.base_model.model.named_modules()
    return {n: m.get_delta_weight("default").detach() for n, m in layers if hasattr(m, "get_delta_weight")}


def loaded(folder):
    return matrices(peft.PeftModel.from_pretrained(build_model(), folder))


def two(tmp_path, **second):
    """Adapters of different ranks, scales and modules."""
    one = adapter(tmp_path / "a", 1)
    other = {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": ["q_proj", "o_proj"]} | second
    return one, adapter(tmp_path / "b", 2, **other)


def close(found, wanted):
    assert set(found) == set(wanted)
    for name, matrix in wanted.items():
        torch.testing.assert_close(found[name], matrix, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.0, -0.5), (0.3, 2.0), ()])
def test_the_sum_is_that_of_the_full_matrices_whatever_ranks_and_scales(weights, tmp_path):
    one, other = two(tmp_path)
    combine_adapters([tmp_path / "a", tmp_path / "b"], weights, tmp_path / "out")
    v, w = weights or (0.5, 0.5)
    zero = torch.zeros(())
    close(loaded(tmp_path / "out"), {n: v * one.get(n, zero) + w * other.get(n, zero) for n in {*one, *other}})
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert sorted({*config["rank_pattern"].values(), config["r"]}) == [3, 4, 7]  # o_proj, down_proj, q_proj


@pytest.mark.parametrize("embeddings", [False, True])  # True: peft saves the base's own embedding beside the adapter
def test_patterns_of_rank_and_alpha_and_embeddings_count(embeddings, tmp_path):
    more = {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"q_proj": 12}}
    one = adapter(tmp_path / "a", 1, embeddings, target_modules=["q_proj", "embed_tokens"], **more)
    held = safe_open(tmp_path / "a/adapter_model.safetensors", "pt").keys()
    assert any(name.endswith("embed_tokens.base_layer.weight") for name in held) == embeddings
    combine_adapters([tmp_path / "a"], [-2.0], tmp_path / "out")
    close(loaded(tmp_path / "out"), {n: -2.0 * m for n, m in one.items()})


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)])
def test_weight_0_drops_out_and_1_is_the_adapter_to_the_bit(weights, tmp_path):
    two(tmp_path)
    combine_adapters([tmp_path / "a", tmp_path / "b"], weights, tmp_path / "out")
    kept = tmp_path / ("a" if weights[0] else "b")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (kept / name).read_bytes()
    found, own = loaded(tmp_path / "out"), loaded(kept)
    assert all(torch.equal(found[name], own[name]) for name in own)


def test_a_combined_adapter_can_be_combined_again(tmp_path):
    one, other = two(tmp_path, target_modules=MODULES)
    combine_adapters([tmp_path / "a", tmp_path / "b"], (1.0, -0.5), tmp_path / "sum")
    record = combine_adapters([tmp_path / "sum", tmp_path / "a"], (2.0, -1.0), tmp_path / "again")
    close(loaded(tmp_path / "again"), {n: one[n] - other[n] for n in one})
    assert record.label == "2 (a - 0.5 b) - a"


def factors(up, down):
    return Factors(torch.tensor(up), torch.tensor(down))


def test_a_sum_by_hand():
    one = {"x": factors([[1.0], [2.0]], [[1.0, 0.0]]), "y": factors([[1.0]], [[1.0]])}
    other = {"x": factors([[0.0], [4.0]], [[1.0, 1.0]])}
    found = weighted_sum([one, other], [3.0, -0.5])
    assert found["x"].up.tolist() == [[3.0, -0.0], [6.0, -2.0]]
    assert found["x"].down.tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert (found["x"].up @ found["x"].down).tolist() == [[3.0, 0.0], [4.0, -2.0]]
    assert found["y"].up.tolist() == [[3.0]]


def test_lines_rises_from_the_first_block_to_the_last():
    ones = Factors(torch.ones(1, 1), torch.ones(1, 1))
    names = ["model.layers.0.q", "model.layers.1.q", "model.layers.2.mlp.experts.7.w", "lm_head"]
    update = dict.fromkeys(names, ones) | {"model.embed_tokens": replace(ones, looked_up=True)}
    found = {name: f.up.item() for name, f in by_depth(update, 0.2).items()}
    wanted = [0.2, 0.6, 1.0, 1.0, 0.2]
    assert list(found.values()) == pytest.approx(wanted)
    assert [f.up.item() for f in by_depth(update, 0.2, blocks=5).values()] == pytest.approx([0.2, 0.4, 0.6, 1.0, 0.2])
    assert by_depth({"model.layers.0.q": ones}, 0.2)["model.layers.0.q"].up.item() == 1.0  # one block is the last


def test_truncation_keeps_the_top_directions_by_hand():
    update = {"x": factors([[3.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]])}  # singular values 4 and 3
    found, kept = truncated(update, rank=1)
    torch.testing.assert_close(found["x"].up @ found["x"].down, torch.tensor([[0.0, 0.0], [0.0, 4.0]]))
    assert kept == pytest.approx(16 / 25)
    squares = torch.tensor([16.0, 9.0])
    assert [directions_for(squares, e) for e in (0.1, 0.64, 0.65, 1.0)] == [1, 1, 2, 2]
    assert directions_for(torch.zeros(3), 0.5) in (1, 2, 3)
    assert math.isnan(truncated({"x": factors([[0.0]], [[1.0]])}, rank=1)[1])


@pytest.mark.parametrize(("asked", "least"), [({"rank": 3}, 0.0), ({"energy": 0.8}, 0.8), ({"rank": 7}, 0.999999)])
def test_truncation_is_the_best_approximation_and_says_what_is_kept(asked, least, tmp_path):
    two(tmp_path, target_modules=MODULES)
    folders = [tmp_path / "a", tmp_path / "b"]
    combine_adapters(folders, (1.0, -1.0), tmp_path / "whole")
    record = combine_adapters(folders, (1.0, -1.0), tmp_path / "cut", Arithmetic(**asked))
    whole, cut = loaded(tmp_path / "whole"), loaded(tmp_path / "cut")
    kept = sum(cut[n].square().sum() for n in cut) / sum(whole[n].square().sum() for n in whole)
    assert record.energy_kept == pytest.approx(float(kept), abs=1e-5)
    assert record.energy_kept >= least - 1e-9
    for name, matrix in cut.items():
        lost = (whole[name] - matrix).norm() ** 2
        rank = int(torch.linalg.matrix_rank(matrix, rtol=1e-4))
        assert rank <= asked.get("rank", 7)
        best = torch.linalg.svdvals(whole[name])[rank:].square().sum()
        torch.testing.assert_close(lost, best, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
        ({"bias": "all"}, "bias=all"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
    ],
)
def test_other_kinds_are_refused_in_one_line(changes, says, tmp_path):
    adapter(tmp_path / "a", 1, **changes)
    with pytest.raises(UserError, match=f"cannot be combined: its adapter has {says}.*no plain LoRA") as error:
        combine_adapters([tmp_path / "a"], [0.5], tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_added_is_refused(tmp_path):
    two(tmp_path)
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "out"
    with pytest.raises(UserError, match="2 adapters need as many weights, got 1"):
        combine_adapters([a, b], [1.0], out)
    with pytest.raises(UserError, match="every weight is 0"):
        combine_adapters([a, b], [0.0, 0.0], out)
    with pytest.raises(UserError, match="exists already; give a new folder"):
        combine_adapters([a, b], [], b)
    with pytest.raises(UserError, match="energy is a share above 0"):
        Arithmetic(energy=1.5)
    with pytest.raises(UserError, match="rises over; give lines too"):
        Arithmetic(blocks=4)
    peft.get_peft_model(build_model(), peft.LoHaConfig(target_modules=MODULES)).save_pretrained(tmp_path / "loha")
    with pytest.raises(UserError, match="of the kind LOHA; only LoRA"):
        combine_adapters([a, tmp_path / "loha"], [], out)
    (tmp_path / "whole").mkdir()
    with pytest.raises(UserError, match=r"holds no adapter_config\.json"):
        combine_adapters([tmp_path / "whole"], [], out)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite_are_refused(value, tmp_path, capsys):
    two(tmp_path)
    words = ["combine", str(tmp_path / "a"), str(tmp_path / "b"), f"--out={tmp_path / 'out'}"]
    for more, says in (
        (["--weights", value, "1"], "weights are finite numbers"),
        ([f"--lines={value}"], "lines is a factor"),
    ):
        assert main([*words, *more]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert f"got {value}" in err
    assert not (tmp_path / "out").exists()


def test_a_sum_that_is_not_finite_is_not_written(tmp_path):
    two(tmp_path)
    with pytest.raises(UserError, match=r"the sum on \S+_proj is not finite; give smaller weights"):
        combine_adapters([tmp_path / "a", tmp_path / "b"], [1e39, 1.0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_in_the_way_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "read_config", None)  # reading would fail
    empty, link = tmp_path / "empty", tmp_path / "link"
    empty.mkdir()
    (tmp_path / "a").mkdir()
    link.symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(empty)
    for out, says in ((".", "is the working directory"), ("../empty", "is the working directory"), (link, "exists")):
        with pytest.raises(UserError, match=f"{out} {says}.*; give a new folder for the combined adapter"):
            combine_adapters([tmp_path / "a"], [0.5], Path(out))
    assert list(empty.iterdir()) == []


def test_a_link_to_an_empty_folder_is_followed(tmp_path):
    adapter(tmp_path / "a", 1)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    combine_adapters([tmp_path / "a"], [0.5], tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/combined.json").is_file()
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_appears_in_the_folder_meanwhile_is_not_deleted(kind, tmp_path, monkeypatch):
    adapter(tmp_path / "a", 1)
    out = tmp_path / "out"
    theirs = out / "theirs.txt" if kind == "folder" else out

    def slowly(*arguments):
        theirs.parent.mkdir(exist_ok=True)
        theirs.write_text("hours of work")
        return weighted_sum(*arguments)

    monkeypatch.setattr(module, "weighted_sum", slowly)
    with pytest.raises(UserError, match="out was written to meanwhile, and is left as it is; give another folder"):
        combine_adapters([tmp_path / "a"], [0.5], out)
    assert theirs.read_text() == "hours of work"
    assert {p.name for p in tmp_path.iterdir()} == {"a", "out"}


def test_different_bases_are_refused_by_fingerprint_or_else_by_name(tmp_path):
    two(tmp_path, target_modules=MODULES)
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, name, print_ in ((a, "here", "f00d"), (b, "there", "f00d")):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))
        (folder / "run.json").write_text(json.dumps({"base_fingerprint": print_}))
    assert combine_adapters([a, b], [], tmp_path / "same weights").base_fingerprint == "f00d"
    (b / "run.json").write_text(json.dumps({"base_fingerprint": "beef"}))
    with pytest.raises(UserError, match=r"different base models \(fingerprints f00d and beef\)"):
        combine_adapters([a, b], [], tmp_path / "out")
    (b / "run.json").unlink()
    with pytest.raises(UserError, match=r"different base models \(here and there\)"):
        combine_adapters([a, b], [], tmp_path / "out")


@pytest.fixture
def runs(toy_folder, pairs_file, tmp_path):
    """Folders as two DPO runs and one on shuffled prompts leave them, with random adapters."""
    for method, seed in (("dpo", 1), ("dpo", 2), ("shuffled-prompts", 1)):
        options = {"training.seed": seed, "model.base_model": str(toy_folder), "output_dir": str(tmp_path / "out")}
        config = innerpo.run_config(method, data=str(pairs_file), **options)
        adapter(config.run_dir, seed)
        (config.run_dir / "config.yaml").write_text(as_yaml(to_dict(config)))
        print_ = fingerprint(build_model())
        (config.run_dir / "run.json").write_text(json.dumps({"base_fingerprint": print_, "base_model": "toy"}))
    return tmp_path / "out"


def test_a_contrast_of_runs_is_scored_and_stands_in_tables(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("INNERPO_CACHE", str(tmp_path / "cache"))
    one, control = run_in(runs, "dpo_pairs_seed1"), run_in(runs, "shuffled-prompts_pairs_seed1")
    out = tmp_path / "contrast"
    assert main(["combine", str(one), str(control), "--weights", "1", "-0.5", f"--out={out}"]) == 0
    record = read_combined(out)
    assert [s.weight for s in record.sources] == [1.0, -0.5]
    assert record.label == "dpo - 0.5 shuffled-prompts"
    assert record.seed == 1
    assert config_of_folder(out).data.dataset == config_of_folder(one).data.dataset
    assert main(["eval", str(out), "--eval.strengths", "0.5", "1", "--eval.sets", "train"]) == 0
    (scored,) = out.glob("eval-*")
    study = read_study(scored)
    assert study.runs.row(0, named=True)["method"] == record.label
    assert study.runs["seed"].to_list() == [1]
    assert set(study.responses["model"]) == {"base", record.label}


def test_a_soup_is_the_mean_over_seeds_and_has_no_seed(runs, tmp_path):
    folders = [path for path in runs.iterdir() if path.name.startswith("dpo_")]
    assert len(folders) == 2
    record = innerpo.combine(folders, out=tmp_path / "soup", lines=0.5)
    assert record.seed is None
    assert record.label == "soup of 2 dpo, lines 0.5"
    assert [s.weight for s in record.sources] == [0.5, 0.5]
    base = innerpo.Base(build_model(intermediate_size=40).requires_grad_(False), None, "other", "other")
    with pytest.raises(UserError, match=r"was trained on .* with other weights"):
        innerpo.load(tmp_path / "soup", base)


def changed(folder, section, **values):
    """A run's folder with other values in a section of its config."""
    held = read_yaml(folder / "config.yaml")
    (folder / "config.yaml").write_text(as_yaml(held | {section: held[section] | values}))


@pytest.mark.parametrize("four_bit", [False, True])
def test_runs_on_different_data_keep_the_settings_of_their_base_model(four_bit, runs, tmp_path):
    """Of two the one in 4 bits: a merge into full weights is refused, as it is for the run itself."""
    one, other = run_in(runs, "dpo_pairs_seed1"), run_in(runs, "dpo_pairs_seed2")
    changed(one, "model", dtype="float32")
    changed(other, "model", dtype="float32", load_in_4bit=four_bit)
    changed(other, "data", dataset="embedded:compare")
    record = combine_adapters([one, other], [1.0, -0.5], tmp_path / "sum")
    assert record.data == {}
    config = config_of_folder(tmp_path / "sum")
    assert (config.model.dtype, config.model.load_in_4bit) == ("float32", four_bit)
    assert config.model.base_model == config_of_folder(one).model.base_model
    with pytest.raises(UserError, match=r"eval\.train_dataset|train_dataset"):
        check_training_set(tmp_path / "sum", None)
    adapter(tmp_path / "foreign", 3)
    again = combine_adapters([tmp_path / "foreign", tmp_path / "sum"], [], tmp_path / "again")
    assert again.model == record.model
    if four_bit:
        with pytest.raises(UserError, match="in 4 bits"):
            innerpo.merge(tmp_path / "sum", tmp_path / "merged")


def test_nothing_to_combine_is_said():
    with pytest.raises(UserError, match="nothing to combine"):
        innerpo.combine([], out="sum")


def test_the_command_wants_a_folder_to_write_to(capsys):
    assert main(["combine", "outputs/x"]) == 2
    assert "needs --out" in capsys.readouterr().err
