"""Faults that an outsider's review found, each kept from coming back."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from conftest import build_tokenizer, make_pairs, run_in
from innerpo.cli.verbs import main
from innerpo.config.data import DataConfig
from innerpo.config.evaluation import EvalConfig
from innerpo.config.method import MethodConfig
from innerpo.config.run import default_run
from innerpo.config.training import TrainingConfig
from innerpo.data.pairs import PreferencePair
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError
from innerpo.evaluation.headline_files import scores_folder
from innerpo.evaluation.suites import default_control
from innerpo.model.layer_spec import resolve_layers
from innerpo.training.arguments import training_arguments
from innerpo.training.record import inputs_hash
from innerpo.training.run_folder import last_checkpoint


def write_pairs(path, swapped=False):
    rows = []
    for p in make_pairs(24):
        chosen, rejected = (p.rejected, p.chosen) if swapped else (p.chosen, p.rejected)
        rows.append(json.dumps({"prompt": p.prompt, "chosen": chosen, "rejected": rejected, "split": "train"}))
    path.write_text("\n".join(rows))


def words(tmp_path, toy_folder, *more):
    return [
        *(
            "train",
            "innerpo",
            f"--model.base_model={toy_folder}",
            "--model.lora_r=2",
            "--method.layers=1",
            "--eval.skip",
        ),
        *(f"--data.dataset={tmp_path / 'numbers.jsonl'}", f"--data.cache_dir={tmp_path / 'cache'}"),
        *(f"--output_dir={tmp_path / 'out'}", "--training.save_steps=2", "--training.scheduler=constant", *more),
    ]


def test_full_fine_tuning_never_takes_the_policy_for_its_reference(tmp_path, toy_folder):
    """Its token states are kept above any limit: the margin must leave 0 as it does with the cache."""
    write_pairs(tmp_path / "numbers.jsonl")
    more = ("--training.log_steps=1", "--training.lr=1e-3", "--data.token_cache_gb=0")
    assert main([*words(tmp_path, toy_folder, *more), "--model.lora_r=0"]) == 0
    log = (run_in(tmp_path / "out", "innerpo-none_numbers_seed1") / "metrics.jsonl").read_text().splitlines()
    assert abs(json.loads(log[-2])["inner_margin"]) > 1e-3


@pytest.mark.parametrize(
    ("source", "target", "control"),
    [
        ("math", "change_my_view", "ethics:justice"),
        ("ethics:justice", "ethics:deontology", "embedded:control"),
        ("ethics:deontology", "ethics:justice", "embedded:control"),
        ("embedded:longer", "embedded:shorter", "embedded:control"),
        ("embedded:control", None, "ethics:justice"),
        ("embedded:compare", "embedded:control", "ethics:justice"),
    ],
)
def test_the_control_is_neither_source_nor_target(source, target, control):
    assert default_control(source, [target] if target else []) == control


def test_a_checkpoint_of_the_last_step_is_loaded_not_trained_on(tmp_path, toy_folder, monkeypatch):
    """Killed between the last checkpoint and the saving of the adapter, in the middle of an epoch."""
    write_pairs(tmp_path / "numbers.jsonl")
    whole = [*words(tmp_path, toy_folder, "--training.max_steps=2"), f"--output_dir={tmp_path / 'whole'}"]
    assert main(whole) == 0

    def killed(*args, **kwargs):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("innerpo.training.artifacts.save_run", killed)
        with pytest.raises(SystemExit):
            main(words(tmp_path, toy_folder, "--training.max_steps=2"))
    folder = run_in(tmp_path / "out", "innerpo-none_numbers_seed1")
    assert last_checkpoint(folder).name == "checkpoint-2"
    assert main(words(tmp_path, toy_folder, "--training.max_steps=2", "--training.resume")) == 0
    assert json.loads((folder / "run.json").read_text())["steps"] == 2
    a, b = (f / "adapter_model.safetensors" for f in (folder, tmp_path / "whole" / folder.name))
    assert a.read_bytes() == b.read_bytes()


def test_resume_refuses_other_data(tmp_path, toy_folder, monkeypatch, capsys):
    write_pairs(tmp_path / "numbers.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr("innerpo.training.artifacts.save_run", lambda *a: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            main(words(tmp_path, toy_folder))
    write_pairs(tmp_path / "numbers.jsonl", swapped=True)
    assert main(words(tmp_path, toy_folder, "--training.resume")) == 2
    assert "was begun on other data or another base model" in capsys.readouterr().err


def test_resume_refuses_another_number_of_processes(tmp_path, toy_folder, monkeypatch, capsys):
    """Two processes have half of the steps of one: the trainer would go on in another place and with other batches."""
    write_pairs(tmp_path / "numbers.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr("innerpo.run.inputs_hash", lambda data, base, processes: inputs_hash(data, base, 2))
        patch.setattr("innerpo.training.artifacts.save_run", lambda *a: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            main(words(tmp_path, toy_folder))
    assert main(words(tmp_path, toy_folder, "--training.resume")) == 2
    assert re.search(r"another number of processes \(inputs \w+-2, these are \w+\)", capsys.readouterr().err)


def test_scores_under_other_settings_do_not_replace_the_runs_own(tmp_path):
    from innerpo.config.run import to_dict
    from innerpo.config.yaml import as_yaml

    config = default_run("dpo")
    (tmp_path / "config.yaml").write_text(as_yaml(to_dict(config)))
    assert scores_folder(tmp_path, config) == tmp_path
    assert scores_folder(tmp_path, replace(config, eval=replace(config.eval, batch_size=7))) == tmp_path
    others = [
        replace(config, data=replace(config.data, max_response_tokens=2)),
        replace(config, eval=replace(config.eval, oos_dataset="arc_easy")),
        replace(config, model=replace(config.model, base_model="other")),
    ]
    folders = [scores_folder(tmp_path, c) for c in others]
    assert len({*folders, tmp_path}) == 4


def test_dpo_is_dpo():
    with pytest.raises(UserError, match="dpo has no terms on hidden states, got inner"):
        MethodConfig(name="dpo", alpha=0.3, gamma=0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataConfig(max_train_prompts=-1), "data.max_train_prompts must not be negative, got -1"),
        (lambda: TrainingConfig(seed=-1), "training.seed must not be negative, got -1"),
        (lambda: EvalConfig(max_prompts=-1), "eval.max_prompts must not be negative, got -1"),
        (lambda: resolve_layers("nan", 4), "'nan' is not a number"),
        (
            lambda: training_arguments(replace(default_run("dpo"), training=TrainingConfig(optim="adamm"))),
            "refuses the training options: .*adamm",
        ),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_truncated_model_file_is_one_line(tmp_path, toy_folder, capsys):
    write_pairs(tmp_path / "numbers.jsonl")
    broken = tmp_path / "broken"
    shutil.copytree(toy_folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(words(tmp_path, broken)) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("error: cannot load the base model")
    assert not (tmp_path / "out").exists()


def test_a_chat_template_that_refuses_names_the_pair():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    ask, answer = ({"role": "user", "content": "a"},), ({"role": "assistant", "content": "b"},)
    other = ({"role": "assistant", "content": "c"},)
    pair = PreferencePair(ask, answer, other, "chat/7", "chat", "train", "c")
    with pytest.raises(UserError, match="pair chat/7: the model's chat template refuses its messages: no system role"):
        PairTokenizer(tokenizer, 8, 8).training_items([pair])
