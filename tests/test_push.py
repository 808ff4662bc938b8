"""Pushing: the real calls of huggingface_hub against a local server that speaks its protocol, and what is uploaded."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from transformers import AutoModelForCausalLM

import innerpo
from conftest import make_pairs
from fake_hub import TOKEN, FakeHub, serving
from innerpo.cli import main
from innerpo.config.run import RunConfig, to_dict
from innerpo.config.yaml import as_yaml, check_training_set, config_of_folder, read_run_config, read_yaml
from innerpo.data.sources.places import on_hub
from innerpo.errors import UserError
from innerpo.evaluation.facts import Scores, read_scores
from innerpo.evaluation.statistics import UNKNOWN, Estimate
from innerpo.sharing.bases import hub_id, name_of_base
from innerpo.sharing.clean import Cleaner, check_clean, last_parts, places_in
from innerpo.sharing.package import packed
from innerpo.sharing.results import Result, eval_results, model_index, results_of
from innerpo.training.card import model_card
from sharing_helpers import toy_run
from study_helpers import NEAR

REPO = "owner/toy-run"
SPLITS = ("train", "test")

# The Hub's own client, on its path without Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A fake Hub that huggingface_hub talks to, with a token and a cache of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(FakeHub()) as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        url = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url)
        yield found


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    pairs = enumerate(make_pairs(16))
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "split": SPLITS[i % 2]} for i, p in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def run(toy_folder, pairs_file, tmp_path_factory):
    """The folder of a scored toy run with directions; its data set is a file with an absolute path."""
    out = tmp_path_factory.mktemp("push")
    options = {
        "data.cache_dir": out / "cache",
        "eval.oos_dataset": "embedded:compare",
        "eval.rnd_dataset": "embedded:control",
    }
    return toy_run(out, toy_folder, "innerpo", scored=True, data=str(pairs_file), **options)


def texts(files):
    return {name: content.decode() for name, content in files.items() if not name.endswith((".safetensors", "parquet"))}


def test_a_push_is_one_commit_and_loads_again_as_the_same_policy(hub, run, toy_folder, capsys):
    assert main(["push", str(run), REPO, "--private"]) == 0
    said = capsys.readouterr().err
    assert re.search(r"[\d,]+  adapter_model.safetensors\n", said)
    assert f"uploaded: {hub.url}/{REPO}/commit/" in said
    assert hub.private == {REPO: True}
    files = hub.repos[REPO]["main"]
    assert hub.commits == [(REPO, "main", f"Upload {run.name}", len(files) - 1)]
    expected = {
        *(".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "config.yaml", "run.json"),
        *("directions.safetensors", "metrics.jsonl", "headline.json", "headline.md", "overlap.jsonl"),
        *("scores.parquet", "pairs.parquet", "sets.parquet", "pushed.json"),
    }
    assert set(files) == expected
    assert files["adapter_model.safetensors"] == (run / "adapter_model.safetensors").read_bytes()
    assert ("PUT", f"/lfs/{hub_oid(files['adapter_model.safetensors'])}") in hub.requests
    base = innerpo.load_base(str(toy_folder), dtype="float32")
    ids = base.tokenizer("3 or 7?", return_tensors="pt")
    found = []
    for where in (REPO, run):
        loaded = innerpo.load(where, base)
        with torch.no_grad():
            found.append(loaded.policy(**ids).logits)
        assert loaded.tokenizer is base.tokenizer
        assert loaded.transform.name == "none"
        assert loaded.directions.w.shape[0] == len(loaded.inner_reward.layers)
        innerpo.remove_adapter(base, loaded.policy)
    assert torch.equal(*found)
    assert (loaded.config.training, loaded.config.method) == (
        read_run_config(run).training,
        read_run_config(run).method,
    )


def hub_oid(content):
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_nothing_of_this_machine_is_uploaded(hub, run, toy_folder, pairs_file):
    innerpo.push(run, REPO)
    files = hub.repos[REPO]["main"]
    for name, text in texts(files).items():
        for place in (
            str(toy_folder),
            str(run.parent),
            str(pairs_file.parent),
            str(Path.home()) + "/",
            str(Path.cwd()),
            "/tmp/",
        ):
            assert place not in text, name
    config, own = yaml.safe_load(files["config.yaml"]), read_yaml(run / "config.yaml")
    assert config["model"].pop("base_model") == json.loads(files["run.json"])["base_model"] == toy_folder.name
    assert config["data"].pop("dataset") == json.loads(files["run.json"])["dataset"] == "pairs.jsonl"
    assert (own["model"].pop("base_model"), own["data"].pop("dataset")) == (str(toy_folder), str(pairs_file))
    assert own.pop("output_dir")
    assert all(own["data"].pop(name, 0) != 0 for name in ("cache_dir", "genies_dir", "ethics_dir"))
    assert config == own  # all else is as it was
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == toy_folder.name
    frame, facts = pl.read_parquet(files["scores.parquet"]), read_scores(run).responses
    assert set(frame["dataset"]) == {"pairs.jsonl", "embedded:compare", "embedded:control"}
    assert frame.drop("dataset").equals(facts.drop("dataset"))


@pytest.fixture
def copied(run, tmp_path):
    """The run's folder once more, to be changed."""
    return shutil.copytree(run, tmp_path / run.name)


def packed_texts(folder, **options):
    """The texts that would be uploaded, by name."""
    with packed(folder, read_run_config(folder), REPO, **options) as package:
        return {n: p.read_text() for n, p in package.files.items() if not n.endswith((".safetensors", "parquet"))}


def test_a_path_that_only_a_suites_file_named_is_cut(copied):
    """It stands in the scores and in headline.md, and in no config."""
    there = "/data/elsewhere/shift.jsonl"
    for stem in ("scores", "sets"):
        frame = pl.read_parquet(copied / f"{stem}.parquet")
        named = pl.col("dataset").replace("embedded:compare", there)
        frame.with_columns(named).write_parquet(copied / f"{stem}.parquet")
    for name in ("headline.md", "headline.json"):
        text = (copied / name).read_text()
        assert "embedded:compare" in text
        (copied / name).write_text(text.replace("embedded:compare", there))
    found = packed_texts(copied)
    assert not [name for name, text in found.items() if "/data/elsewhere" in text]
    assert "shift.jsonl" in found["headline.md"]
    assert "shift.jsonl" in found["README.md"]


def test_texts_of_prompts_are_not_uploaded(copied):
    (copied / "overlap.jsonl").write_text(json.dumps(NEAR) + "\n")
    found = packed_texts(copied)
    assert json.loads(found["overlap.jsonl"]) == {"set": "test", "train": 3, "target": 5, "similarity": 1.0}


def test_an_adapter_without_its_weights_is_not_pushed(copied):
    (copied / "adapter_model.safetensors").rename(copied / "adapter_model.bin")
    with pytest.raises(UserError, match=r"holds no adapter_model.safetensors; save the adapter as safetensors"):
        packed_texts(copied)


def test_the_card_of_a_branch_says_how_to_load_the_branch(run):
    own, main_ = packed_texts(run, revision="seed1")["README.md"], packed_texts(run)["README.md"]
    assert f'innerpo.load("{REPO}", revision="seed1")' in own
    assert f'innerpo.load("{REPO}")' in main_


def test_what_must_not_leave_is_named_where_it_lies(copied, monkeypatch):
    """Not the copy that is made for the upload, which is gone by then."""
    text = (copied / "headline.md").read_text()
    (copied / "headline.md").write_text(f"{text}\nsee {Path.home()}/notes\n")
    with pytest.raises(UserError) as caught:
        packed_texts(copied)
    assert str(caught.value).endswith(f"({Path.home()}/...); remove it from {copied}")


def test_last_parts_by_hand():
    places = ["/a/x/test.jsonl", "/b/y/test.jsonl", "/c/z.jsonl", "/a/x", "/b/x", "/a/x/test.jsonl", "/c/test.jsonl"]
    assert last_parts(places) == {
        **{"/a/x/test.jsonl": "test.jsonl", "/b/y/test.jsonl": "test-2.jsonl", "/c/test.jsonl": "test-3.jsonl"},
        **{"/c/z.jsonl": "z.jsonl", "/a/x": "x", "/b/x": "x-2"},
    }


def test_a_folders_name_may_be_a_word_of_a_models_config():
    """``llama``, a link in the working folder: of the model's own files only whole paths are replaced."""
    cleaner = Cleaner({"llama": "Llama-3.2-1B", "/models/x/Llama-3.2-1B": "Llama-3.2-1B"})
    held = {"model_type": "llama", "_name_or_path": "/models/x/Llama-3.2-1B", "token": "/think"}
    assert cleaner.of_model().value(held) == held | {"_name_or_path": "Llama-3.2-1B"}


def test_a_dry_run_uploads_nothing_and_needs_no_token(hub, run, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main(["push", str(run), REPO, "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "scores.parquet" in said
    assert "nothing was uploaded (dry run)" in said
    assert "who loads this run must name it ('toy-llama' is all that is uploaded)" in said
    assert "what of an earlier push would be deleted is not known: there is no token of the Hub" in said
    assert hub.requests == []


def test_the_card_has_metadata_tables_and_how_to_load(hub, run):
    innerpo.push(run, REPO)
    card = ModelCard(hub.repos[REPO]["main"]["README.md"].decode())
    assert card.data.library_name == "peft"
    assert card.data.base_model is None  # a local folder has no name on the Hub
    assert {"innerpo", "preference-optimisation"} <= set(card.data.tags)
    (test,) = [r for r in card.data.eval_results if r.dataset_name == "pairs.jsonl (test)"]
    (mine,) = [r for r in results_of(run, "innerpo-none") if r.set == "test"]
    assert test.metric_value == round(mine.accuracy.mean, 4)
    assert (run / "headline.md").read_text().splitlines()[4] in card.text
    assert f'innerpo.load("{REPO}")' in card.text
    assert "merged" not in card.data.tags


def test_a_merged_model_is_pushed_and_loads_in_plain_transformers(hub, run, toy_folder):
    innerpo.push(run, REPO, merged=True, revision="whole")
    assert {".gitattributes"} == set(hub.repos[REPO]["main"])
    files = hub.repos[REPO]["whole"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "directions.safetensors", "config.yaml"} <= set(files)
    assert "adapter_model.safetensors" not in files
    model = AutoModelForCausalLM.from_pretrained(innerpo.load(REPO, base_of(toy_folder), revision="whole").folder)
    loaded = innerpo.load(run, base_of(toy_folder))
    ids = loaded.tokenizer("3 or 7?", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(model(**ids).logits, loaded.policy(**ids).logits, atol=1e-3, rtol=0)


def test_the_card_of_a_merged_model_says_what_is_there(run):
    with packed(run, config_of_folder(run), REPO, merged=True) as package:
        card = ModelCard(package.files["README.md"].read_text())
        assert "model.safetensors" in package.files
    assert card.data.library_name == "transformers"
    text = " ".join(card.text.split())
    assert "`toy-llama` with a LoRA adapter merged into its weights; the adapter was trained by InnerPO on" in text
    assert "Files: `model.safetensors` and tokenizer (a whole model, which transformers loads), `directions" in text
    assert "peft" not in text
    assert "This policy was scored before merging, as base + adapter." in text
    (test,) = [r for r in card.data.eval_results if r.dataset_name == "pairs.jsonl (test)"]
    assert test.metric_name.endswith("(scored before merging, as base + adapter)")
    (entry,) = eval_results([replace(result("math"), note="scored before merging")]).values()
    assert "; base model 0.5000; scored before merging" in " ".join(entry.split())


def test_the_card_of_a_full_fine_tune_says_what_is_there(toy_folder, tmp_path):
    full = toy_run(tmp_path, toy_folder, **{"model.lora_r": 0})
    text = " ".join((full / "README.md").read_text().split())
    assert "library_name: transformers" in text
    assert "A full fine-tune of `" in text
    assert "Files: `model.safetensors` and tokenizer (a whole model" in text
    assert not any(word in text for word in ("peft", "adapter", "LoRA"))
    assert json.loads((full / "run.json").read_text())["pairs_per_step"] == 4


def test_the_card_counts_the_pairs_of_all_processes():
    config = innerpo.run_config("dpo", **{"data.batch_size": 4, "training.gradient_accumulation": 2})
    record = {"n_pairs": 64, "steps": 4, "run_id": "r", "data_hash": "d"}
    assert "| pairs a step | 8 |" in model_card(config, record)
    assert "| pairs a step | 16 |" in model_card(config, record | {"pairs_per_step": 16})
    assert "adapter_model" not in model_card(innerpo.run_config("probe"), record)


def base_of(folder):
    return innerpo.load_base(str(folder), dtype="float32")


def test_what_an_earlier_push_left_goes_and_nothing_else(hub, run, tmp_path, capsys):
    innerpo.push(run, REPO)
    earlier = set(hub.repos[REPO]["main"])
    theirs = {"mine.txt": b"kept", "tokenizer.json": b"{}", ".eval_results/theirs.yaml": b"- {}"}
    hub.repos[REPO]["main"] |= theirs
    innerpo.combine([run, run], [1.0, -0.5], tmp_path / "sum")
    gone = {"directions.safetensors", "config.yaml", "scores.parquet", "headline.md", "run.json"}
    for more, begun in ([["--dry-run"], "nothing was uploaded (dry run)"], [[], "uploaded: "]):
        before = dict(hub.repos[REPO]["main"])
        assert main(["push", str(tmp_path / "sum"), REPO, *more]) == 0
        said = capsys.readouterr().err
        assert begun in said
        listed = set(re.findall(r"delete  (\S+) \(of an earlier push\)", said))
        assert gone < listed < earlier
        assert more == [] or hub.repos[REPO]["main"] == before
    files = hub.repos[REPO]["main"]
    assert listed.isdisjoint(files)
    assert {name: files[name] for name in theirs} == theirs
    assert innerpo.push(tmp_path / "sum", REPO).deleted == ()


PRECIOUS = {
    **{f"model-0000{i}-of-00002.safetensors": b"A" for i in (1, 2)},
    **{"config.json": b"{}", "tokenizer.json": b"{}", "merges.txt": b"", "README.md": b"my own model"},
}


@pytest.mark.parametrize(
    "files", [PRECIOUS, {"pushed.json": b"{}", "adapter_model.safetensors": b"A"}, {"x.gguf": b""}]
)
@pytest.mark.parametrize("branch", [None, "new"])
def test_a_model_of_others_is_left_alone(hub, run, capsys, files, branch):
    hub.repos[REPO] = {"main": dict(files)}
    words = ["push", str(run), REPO, *([f"--revision={branch}"] if branch else [])]
    for more in (["--dry-run"], []):
        refused(capsys, [*words, *more], f"{REPO} holds a run or a model that no push of InnerPO left there (")
    assert hub.repos[REPO] == {"main": files}


def test_a_new_repository_with_a_card_is_no_model(hub, run):
    hub.repos[REPO] = {"main": {"README.md": b"to come", "LICENSE": b"MIT", ".gitattributes": b""}}
    innerpo.push(run, REPO)
    assert hub.repos[REPO]["main"]["LICENSE"] == b"MIT"


def test_a_dry_run_without_the_hub_says_what_is_not_known(run, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["push", str(run), REPO, "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"note: what of an earlier push would be deleted is not known: {REPO} could not be read: " in said


def test_private_is_not_taken_for_done_where_the_repository_is_public(hub, run):
    innerpo.push(run, REPO)
    before = dict(hub.repos[REPO]["main"])
    with pytest.raises(UserError, match=f"{REPO} is there already and is public"):
        innerpo.push(run, REPO, private=True)
    assert hub.repos[REPO]["main"] == before


def test_code_that_a_downloaded_config_asks_for_does_not_run(hub, run):
    innerpo.push(run, REPO)
    config = hub.repos[REPO]["main"]["config.yaml"]
    hub.repos[REPO]["main"]["config.yaml"] = config.replace(b"trust_remote_code: false", b"trust_remote_code: true")
    assert hub.repos[REPO]["main"]["config.yaml"] != config
    with pytest.raises(UserError, match=r"runs code of .*trust_remote_code=True"):
        innerpo.load(REPO)


@pytest.mark.parametrize(
    "words",
    [
        ["eval"],
        ["inspect"],
        ["generate"],
        ["chat"],
        ["merge", "MADE"],
        ["push", REPO, "--merged"],
        ["export"],
        ["export", "MADE", "--to=gguf"],
    ],
    ids=" ".join,
)
def test_code_that_a_folder_asks_for_does_not_run(words, tmp_path, capsys):
    """A folder may come from anywhere: only who gives the command may allow what its config asks for."""
    config = RunConfig(model=replace(RunConfig().model, base_model="evil/model", trust_remote_code=True))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(as_yaml(to_dict(config)))
    (run / "adapter_config.json").write_text("{}")
    verb, *more = (str(tmp_path / "made") if word == "MADE" else word for word in words)
    assert main([verb, str(run), *more]) == 2
    assert "runs code of evil/model; read it, then pass trust_remote_code=True" in " ".join(
        capsys.readouterr().err.split()
    )


def refused(capsys, words, *says):
    assert main(words) == 2
    err = " ".join(capsys.readouterr().err.split("error:")[-1].split())
    for part in says:
        assert part in err, err


def test_what_goes_wrong_is_one_line(hub, run, tmp_path, monkeypatch, capsys):
    refused(capsys, ["push", str(run), "toy"], "'toy' is no name of a repository; write owner/name")
    refused(capsys, ["push", str(run), "a/b/c"], "'a/b/c' is no name of a repository: Repo id must be")
    refused(capsys, ["push", str(tmp_path), REPO], "holds no adapter_config.json")
    hub.refuse = (403, "You don't have the rights")
    refused(capsys, ["push", str(run), REPO], f"{REPO} could not be pushed: ", "403", "You don't have the rights")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(capsys, ["push", str(run), "owner/other"], "owner/other could not be pushed: ", "401")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    refused(capsys, ["push", str(run), REPO], "there is no token of the Hub that may write")


def test_a_repository_that_is_not_there_is_one_line(hub):
    with pytest.raises(UserError, match=r"there is no folder owner/none, and no repository of that name could be read"):
        innerpo.load("owner/none")
    with pytest.raises(UserError, match="there is no folder nowhere"):
        innerpo.load("nowhere")


def test_a_combined_adapter_is_pushed_and_loaded(hub, run, toy_folder, tmp_path):
    innerpo.combine([run, run], [1.0, -0.5], tmp_path / "sum")
    innerpo.push(tmp_path / "sum", "owner/sum")
    files = hub.repos["owner/sum"]["main"]
    assert {s["folder"] for s in json.loads(files["combined.json"])["sources"]} == {run.name}
    assert "| -0.5 | innerpo" in files["README.md"].decode()
    assert not any(str(run.parent) in text for text in texts(files).values())
    loaded = innerpo.load("owner/sum", base_of(toy_folder))
    assert loaded.directions is None
    assert loaded.config.data.dataset == "pairs.jsonl"


def scored_beneath(folder, name, run, label, dataset):
    """Scores as innerpo eval leaves them beneath a combined adapter."""
    (folder / name).mkdir()
    held = read_scores(run)
    rows = held.responses.with_columns(model=pl.col("model").replace({"innerpo-none": label}))
    Scores(rows, held.pairs, held.sets.with_columns(dataset=pl.lit(dataset))).write(folder / name)
    (folder / name / "headline.md").write_text(f"| {label} | on {dataset}\n")


def test_scores_beneath_a_combined_adapter_are_uploaded_from_its_only_folder(run, tmp_path):
    out, elsewhere = tmp_path / "sum", str(tmp_path / "data/others.jsonl")
    record = innerpo.combine([run, run], [1.0, -0.5], out)
    scored_beneath(out, "eval-1", run, record.label, elsewhere)
    with packed(out, config_of_folder(out), REPO) as package:
        assert {"scores.parquet", "pairs.parquet", "sets.parquet", "headline.md"} <= set(package.files)
        card = ModelCard(package.files["README.md"].read_text())
        assert not any("not scored" in note or "not uploaded" in note for note in package.notes)
    assert f"| {record.label} | on others.jsonl" in card.text
    assert "others.jsonl (test)" in {r.dataset_name for r in card.data.eval_results}
    scored_beneath(out, "eval-2", run, record.label, elsewhere)
    with packed(out, config_of_folder(out), REPO) as package:
        assert not [name for name in package.files if "scores" in name or "headline" in name]
        assert "scores in eval-1, eval-2 are not uploaded" in package.notes


def test_other_scores_of_a_run_are_named(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / run.name)
    scored_beneath(copy, "eval-1", run, "innerpo-none", "embedded:compare")
    with packed(copy, config_of_folder(copy), REPO) as package:
        assert pl.read_parquet(package.files["sets.parquet"])["dataset"].n_unique() == 3
        assert "scores in eval-1 are not uploaded" in package.notes


@pytest.mark.slow
def test_the_command_finds_the_endpoint_in_the_environment(run, tmp_path):
    with serving(FakeHub()) as hub:
        more = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
        words = [sys.executable, "-m", "innerpo", "push", str(run), REPO]
        done = subprocess.run(words, env=os.environ | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "adapter_model.safetensors" in hub.repos[REPO]["main"]


def test_a_whole_model_without_a_run_is_not_pushed(tmp_path):
    """A merged folder, say: its card would name the default base model and data."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    with (
        pytest.raises(UserError, match="a whole model without the config of a run"),
        packed(tmp_path, RunConfig(), REPO),
    ):
        raise AssertionError
    with pytest.raises(UserError, match=r"name it by eval.train_dataset, and its base by model.base_model"):
        check_training_set(tmp_path, None)
    check_training_set(tmp_path, "math")


# -- the parts ---------------------------------------------------------------------------------------------------------


def result(dataset, set="test", mean=0.71236):
    return Result(
        set, dataset, "test", 40, Estimate(mean, 0.6, 0.8, 40, 20), Estimate(0.5, 0.4, 0.6, 40, 20), on_hub(dataset)
    )


def test_results_of_sets_on_the_hub_have_the_form_of_eval_results():
    results = [result("math"), result("owner/data:hard", "oos"), result("ethics:justice", "rnd"), result("x.jsonl")]
    assert eval_results([replace(result("math", "train"), split="train")]) == {}  # no result of the data set
    files = eval_results(results)
    assert list(files) == [
        f".eval_results/{n}.yaml" for n in ("test_math", "oos_owner-data-hard", "rnd_ethics-justice")
    ]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/test_math.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("wassname/genies_preferences", "math", 0.7124)
    assert entry.notes.endswith("test split, 40 pairs of 20 prompts; base model 0.5000")
    (other,) = yaml.safe_load(files[".eval_results/oos_owner-data-hard.yaml"])
    assert other["dataset"] == {"id": "owner/data", "task_id": "hard"}
    assert len(model_index(results)) == 4


@pytest.mark.parametrize(
    ("dataset", "where"),
    [
        ("math", ("wassname/genies_preferences", "math")),
        ("genies:code", ("wassname/genies_preferences", "code")),
        ("owner/name", ("owner/name", "default")),
        ("hub:owner/name:config:test", ("owner/name", "config")),
        ("embedded:compare", None),
        ("./pairs.jsonl", None),
        ("some:thing", None),
        ("nothing", None),
    ],
)
def test_which_data_sets_are_on_the_hub(dataset, where):
    assert on_hub(dataset) == where


def test_results_without_scores_or_a_base(tmp_path):
    assert results_of(tmp_path, "dpo") == ()
    assert UNKNOWN.mean != UNKNOWN.mean


def test_a_cleaner_by_hand():
    cleaner = Cleaner({"/home/me": "me", "/home/me/models/toy": "owner/toy"})
    plain = {"a": ["/home/me/models/toy", "/etc/x/y.json", 3, None], "b": "see /home/me/z", "c": "a/b", "~/k": "~/k/l"}
    assert cleaner.value(plain) == {"a": ["owner/toy", "y.json", 3, None], "b": "see me/z", "c": "a/b", "~/k": "l"}
    kinds = ["files:/data/secret/pairs.jsonl", "files:~/p.jsonl", "ethics:justice", "https://a.b/c", "/"]
    assert cleaner.value(kinds) == ["files:pairs.jsonl", "files:p.jsonl", "ethics:justice", "https://a.b/c", "/"]
    assert list(places_in(kinds)) == ["/data/secret/pairs.jsonl", "~/p.jsonl"]
    frame = pl.DataFrame({"dataset": ["/home/me/x.jsonl", "math"], "n": [1, 2]})
    own = replace(cleaner, cuts=False)  # of a model's files, in which a token may begin with a slash
    assert own.value({"content": "/nothink", "at": "/home/me/models/toy"}) == {"content": "/nothink", "at": "owner/toy"}
    assert Cleaner({"/home/me/x.jsonl": "x.jsonl"}).frame(frame)["dataset"].to_list() == ["x.jsonl", "math"]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.md", "in {home}/x", "a path of this machine"),
        ("run.json", "{cwd}/x", "a path of this machine"),
        ("headline.json", "/home/jos\\u00e9/x", "a path of this machine"),
        ("a.yaml", "token: hf_" + "A1" * 17, "an access token"),
        ("b.json", "sk-" + "a" * 30, "an access token"),
        ("c.md", "my-very-secret-value", "an access token"),
    ],
)
def test_what_must_not_leave_is_found(tmp_path, monkeypatch, name, text, what):
    monkeypatch.setenv("MY_API_KEY", "my-very-secret-value")
    monkeypatch.setenv("HOME", "/home/somebody")
    path = tmp_path / name
    path.write_text(text.format(home="/home/somebody", cwd=Path.cwd()))
    with pytest.raises(UserError, match=what):
        check_clean({name: path}, [Path("/home/jos\u00e9")])
    path.write_text("nothing at all")
    check_clean({name: path})


def test_a_path_in_the_rows_of_a_parquet_file_is_found(tmp_path):
    path = tmp_path / "scores.parquet"
    pl.DataFrame({"dataset": [f"{Path.cwd()}/pairs.jsonl"]}).write_parquet(path)
    with pytest.raises(UserError, match=r"scores\.parquet would be uploaded with a path"):
        check_clean({path.name: path})


def test_the_embedded_base_is_named_as_on_the_hub(tmp_path):
    (tmp_path / "config.yaml").write_text(as_yaml(to_dict(innerpo.run_config("dpo"))))
    there = "/somewhere/models/smollm2-135m-b179c9523d0e"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": there}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "state.json").write_text("{}")
    with packed(tmp_path, config_of_folder(tmp_path), "o/n") as package:
        config = json.loads(package.files["adapter_config.json"].read_text())
        assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
        assert read_run_config(package.files["config.yaml"].parent).model.base_model == "smollm2-135m"
        card = ModelCard(package.files["README.md"].read_text())
        assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
        assert card.data.base_model_relation == "adapter"
        made = {"README.md", "pushed.json"}
        assert set(package.files) == {*made, "adapter_config.json", "adapter_model.safetensors", "config.yaml"}
        kept = package.files["README.md"]
    assert not kept.exists()


def test_names_of_bases(toy_folder, tmp_path, monkeypatch):
    assert hub_id("smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (hub_id("Qwen/Qwen3-0.6B"), name_of_base("Qwen/Qwen3-0.6B")) == ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B")
    assert (hub_id(str(toy_folder)), name_of_base(str(toy_folder))) == ("", "toy-llama")
    monkeypatch.chdir(toy_folder.parent)
    assert (hub_id("./toy-llama"), name_of_base("toy-llama")) == ("", "toy-llama")


def test_what_is_uploaded_is_a_run_again(hub, run, tmp_path):
    """The files of a repository are a folder that every verb reads."""
    innerpo.push(run, REPO)
    folder = tmp_path / "again"
    folder.mkdir()
    for name, content in hub.repos[REPO]["main"].items():
        (folder / name).write_bytes(content)
    own, again = to_dict(config_of_folder(run)), to_dict(config_of_folder(folder))
    assert (own["training"], own["eval"], own["method"]) == (again["training"], again["eval"], again["method"])
    assert innerpo.table(folder).rows.keys() == innerpo.table(run).rows.keys()
