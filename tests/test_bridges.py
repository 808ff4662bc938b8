"""Exports for TRL, the Hub and vLLM, read back by those libraries or by their rules; and the commands."""

import json

import pytest
from datasets import load_dataset
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from conftest import build_model, build_tokenizer, make_pairs
from innerpo.cli.verbs import main
from innerpo.config.data import DataConfig
from innerpo.data.pairs import BadRows, PreferencePair, cluster_of
from innerpo.data.sources import hub, load_pairs
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError
from innerpo.evaluation.bridges.export import export_dataset
from innerpo.evaluation.bridges.selection import as_chat, file_name, split_pairs, splits_of
from innerpo.evaluation.bridges.trl import export_trl
from innerpo.evaluation.bridges.vllm import RANKS, check_vllm
from innerpo.evaluation.facts import read_scores
from innerpo.trl.data import TrlTokenizer

NAME = "embedded:compare"
TARGETS = ["q_proj", "down_proj"]


def content(pairs):
    return [(p.prompt, p.chosen, p.rejected) for p in pairs]


def original(split="test", chat=False):
    pairs = split_pairs(NAME, split, DataConfig(), max_prompts=8)
    return [as_chat(p) for p in pairs] if chat else pairs


# -- what is exported --------------------------------------------------------------------------------------------------


def test_the_prompts_are_those_that_a_run_scores(tmp_path):
    from innerpo.config.evaluation import EvalConfig
    from innerpo.config.run import RunConfig
    from innerpo.evaluation.sets import load_sets

    data = DataConfig(dataset=NAME)
    config = RunConfig(data=data, eval=EvalConfig(max_prompts=7, sets=("test",)))
    (scored,) = load_sets(config)
    assert split_pairs(NAME, "test", DataConfig(seed=5), max_prompts=7) == list(scored.pairs)


def test_one_worse_response(tmp_path):
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": r} for i in range(4) for r in "bcd"]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = split_pairs(str(tmp_path), "test", DataConfig(), negatives="one")
    assert [p.prompt for p in one] == ["p0", "p1", "p2", "p3"]
    assert len(split_pairs(str(tmp_path), "test", DataConfig())) == 12
    assert split_pairs(str(tmp_path), "test", DataConfig(), negatives="one") == one


def test_names_of_files():
    assert file_name("genies:math_easy") == "genies_math_easy"
    assert file_name("owner/name:config") == "owner_name_config"
    assert file_name("./data/my pairs.jsonl") == "data_my_pairs"


# -- TRL ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [False, True])
def test_trls_form_comes_back_as_the_same_pairs(tmp_path, chat):
    found = export_dataset(NAME, "trl", tmp_path, chat=chat, max_prompts=8)
    assert (found.pairs, [f.name for f in found.files]) == ({"train": 8, "test": 8}, ["train.jsonl", "test.jsonl"])
    for split in ("train", "test"):
        assert content(load_pairs(str(tmp_path), split, DataConfig())) == content(original(split, chat))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chat", [False, True])
def test_trls_trainer_makes_our_tokens_of_the_file(tmp_path, chat):
    from trl import DPOConfig, DPOTrainer

    pairs = make_pairs(6)
    export_trl({"train": pairs}, tmp_path, chat)
    rows = load_dataset("json", data_files=str(tmp_path / "train.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    tokenizer = build_tokenizer()
    args = DPOConfig(output_dir=str(tmp_path / "trl"), use_cpu=True, report_to="none", max_length=None)
    lora = LoraConfig(r=2, target_modules=TARGETS, task_type="CAUSAL_LM")
    trainer = DPOTrainer(build_model(), args=args, train_dataset=rows, processing_class=tokenizer, peft_config=lora)
    tokens = (TrlTokenizer if chat else PairTokenizer)(tokenizer, 512, 512)
    items = tokens.training_items([as_chat(p) for p in pairs] if chat else pairs)
    theirs = [
        (tuple(r["prompt_ids"]), (tuple(r["chosen_ids"]), tuple(r["rejected_ids"]))) for r in trainer.train_dataset
    ]
    assert theirs == [(item.prompt, item.responses) for item in items]


def test_a_mixture_of_text_and_messages_is_refused(tmp_path):
    pairs = make_pairs(2)
    mixed = [pairs[0], as_chat(pairs[1])]
    with pytest.raises(UserError, match="the split train mixes plain text with chat messages"):
        export_trl({"train": mixed}, tmp_path)
    assert not (tmp_path / "train.jsonl").exists()
    export_trl({"train": mixed}, tmp_path, chat=True)
    assert content(load_pairs(str(tmp_path), "train", DataConfig())) == content([as_chat(p) for p in pairs])


# -- the Hub -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [False, True])
def test_a_folder_for_the_hub_is_read_by_datasets_and_by_this_project(tmp_path, chat, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "out"
    export_dataset(NAME, "hub", folder, chat=chat, max_prompts=8)
    found = load_dataset(str(folder))
    assert {split: len(rows) for split, rows in found.items()} == {"train": 8, "test": 8}
    row, pair = found["test"][0], original("test", chat)[0]
    expected = json.loads(json.dumps({"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}))
    assert row == expected | {"pair": pair.id, "prompt_id": pair.cluster}
    for split in ("train", "test"):
        read = hub.load_from(str(folder), None, None, split, DataConfig(), BadRows(), source="x", hint="")
        assert content(read) == content(original(split, chat))


def test_the_card_says_what_is_in_it(tmp_path):
    export_dataset(NAME, "hub", tmp_path, split="test", max_prompts=3)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n")
    assert "test: 3 pairs of 3 prompts, exported from the data set `embedded:compare`" in card
    assert "as text" in card


# -- vLLM --------------------------------------------------------------------------------------------------------------


def adapter(tmp_path, **options):
    config = {"r": 16, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | options
    get_peft_model(build_model(), LoraConfig(**config)).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "owner/base"}))
    return tmp_path


def test_a_plain_adapter_is_taken(tmp_path):
    found = check_vllm(adapter(tmp_path))
    assert found.problems == ()
    assert (found.rank, found.max_lora_rank, found.modules) == (16, 16, ("down_proj", "q_proj"))
    assert found.model_args == f"pretrained=owner/base,lora_local_path={tmp_path},max_lora_rank=16"


@pytest.mark.parametrize(("rank", "limit"), [(1, 1), (2, 8), (16, 16), (24, 32), (320, 320), (500, 512)])
def test_the_limit_of_ranks_is_the_next_that_vllm_knows(tmp_path, rank, limit):
    assert check_vllm(adapter(tmp_path, r=rank)).max_lora_rank == limit
    assert limit in RANKS


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"r": 600}, "its rank 600 is above 512"),
        ({"use_dora": True}, "it is a DoRA adapter"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']"),
        ({"bias": "all"}, "it trains biases (bias=all)"),
        ({"rank_pattern": {"q_proj": 4}}, "vLLM does not read rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "vLLM does not read alpha_pattern"),
        ({"trainable_token_indices": [3]}, "it trains single tokens"),
    ],
)
def test_what_vllm_would_refuse_or_get_wrong(tmp_path, options, problem):
    assert any(found.startswith(problem) for found in check_vllm(adapter(tmp_path, **options)).problems)


def test_another_kind_of_adapter(tmp_path):
    config = IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    get_peft_model(build_model(), config).save_pretrained(tmp_path)
    first, second = check_vllm(tmp_path).problems
    assert first == "it is of peft's kind IA3; vLLM loads LoRA only"
    assert "tensors are of a kind that vLLM does not know" in second


def test_a_tensor_of_another_name(tmp_path):
    path = adapter(tmp_path) / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file(tensors | {name.replace("weight", "bias"): tensors[name].clone()}, path)
    (problem,) = check_vllm(tmp_path).problems
    assert problem.startswith("1 tensors are of a kind that vLLM does not know, the first base_model.model.")


def test_a_rank_stabilised_adapter_is_taken(tmp_path):
    assert check_vllm(adapter(tmp_path, use_rslora=True)).problems == ()


def test_what_is_no_adapter(tmp_path):
    with pytest.raises(UserError, match=r"holds no adapter_config.json: it is no adapter"):
        check_vllm(tmp_path)
    (adapter(tmp_path) / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"adapter_model.safetensors cannot be read"):
        check_vllm(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no adapter_model.safetensors"):
        check_vllm(tmp_path)


# -- the commands ------------------------------------------------------------------------------------------------------


def test_export_and_import_from_the_command_line(tmp_path, toy_folder, capsys):
    out = tmp_path / "out"
    options = ["--to=lm-eval", "--max_prompts=4", f"--model.base_model={toy_folder}"]
    assert main(["bridge", "export", NAME, *options, str(out)]) == 0
    assert "4 pairs of the split test written to" in capsys.readouterr().err
    docs = [json.loads(line) for line in (out / "innerpo_embedded_compare_test.jsonl").read_text().splitlines()]
    assert len(docs) == 4
    folder = out / "results" / "toy"
    folder.mkdir(parents=True)
    samples = [{"doc": doc, "resps": [[[str(-1.0 - i), "False"]] for i in range(len(doc["choices"]))]} for doc in docs]
    log = folder / "samples_innerpo_embedded_compare_test_2026-01-01T10-00-00.1.jsonl"
    log.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    assert main(["bridge", "import", str(out / "results"), "--base=toy"]) == 0
    shown = capsys.readouterr().out
    assert "4 (1.000)" in shown  # by the sum: the first response, which is the better one, has -1
    scores = read_scores(out / "results")
    assert scores.responses["model"].unique().to_list() == ["base"]
    assert scores.sets.row(0, named=True)["pairs"] == 4
    assert main(["bridge", "import", str(out / "results"), f"--against={out / 'results'}"]) == 0
    assert "0.0000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bridge"], "innerpo bridge needs a first word: export or import"),
        (["bridge", "exprot"], "there is no way 'exprot'; did you mean 'export'?"),
        (["bridge", "export", NAME], "innerpo bridge export needs DIR"),
        (["bridge", "export", NAME, "out", "--to=gguf"], "--to is one of lm-eval, trl or hub, not 'gguf'"),
        (["bridge", "export", NAME, "out", "--chat"], "chat is for the forms trl and hub"),
        (["bridge", "export", NAME, "out", "--max_prompts=-1"], "max_prompts must not be negative"),
        (["bridge", "import", "nowhere"], "nowhere holds no samples_*.jsonl"),
        (["generate", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_faults_on_the_command_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert f"error: {says}" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_pairs_of_both_splits():
    assert {name: len(pairs) for name, pairs in splits_of(NAME, "both", DataConfig(), 5).items()} == {
        "train": 5,
        "test": 5,
    }


def test_messages_stay_as_they_are():
    user = ({"role": "user", "content": "a"},)
    answers = [({"role": "assistant", "content": text},) for text in "bc"]
    pair = PreferencePair(user, *answers, "x", "x", "test", cluster_of(user))
    assert as_chat(pair) == pair
