"""InnerPOTrainer in place of TRL's DPOTrainer: the same script, beside TRL itself and beside `innerpo train`."""

import dataclasses
import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import HfArgumentParser, TrainingArguments

from conftest import build_model, build_tokenizer, make_pairs
from innerpo.config.method import MethodConfig
from innerpo.config.run import default_run
from innerpo.config.yaml import overlay
from innerpo.errors import UserError
from innerpo.training.directions_file import load_directions
from innerpo.training.sampler import PairSampler
from innerpo.trl import InnerPOConfig, InnerPOTrainer, arguments
from innerpo.trl.config import NOT_FIELDS
from innerpo.trl.data import items_of, pairs_of
from innerpo.trl.trainer import _arguments

pytestmark = [pytest.mark.filterwarnings("ignore")]  # TRL's deprecations are not ours

ROOT = Path(__file__).parents[1]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def rows_of(form, n=16, start=0):
    """Preference rows in one of the forms that TRL documents."""
    rows = []
    for p in make_pairs(n + start)[start:]:
        if form == "standard":
            rows.append({"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected})
        elif form == "implicit":
            rows.append({"chosen": p.prompt + p.chosen, "rejected": p.prompt + p.rejected})
        else:
            prompt = [{"role": "user", "content": p.prompt}]
            c, r = ([{"role": "assistant", "content": t.strip()}] for t in (p.chosen, p.rejected))
            explicit = {"prompt": prompt, "chosen": c, "rejected": r}
            rows.append(explicit if form == "chat" else {"chosen": prompt + c, "rejected": prompt + r})
    return Dataset.from_list(rows)


@pytest.fixture(autouse=True)
def script(tmp_path_factory, monkeypatch):
    """A cache of its own, and no checks of types: scripts give ints for floats, as transformers takes them."""
    monkeypatch.setenv("INNERPO_CACHE", str(tmp_path_factory.getbasetemp() / "innerpo-cache"))
    monkeypatch.setattr(InnerPOConfig, "__init__", inspect.unwrap(InnerPOConfig.__init__))


def config(folder, **changes):
    small = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "bf16": False,
        "layers": "1,2",
    }
    return InnerPOConfig(str(folder), **(small | changes))


def trainer_on(folder, rows=None, **changes):
    given = {k: changes.pop(k) for k in list(changes) if k in arguments.PARAMETERS}
    whole = {
        "model": build_model(),
        "args": config(folder, **changes),
        "train_dataset": rows_of("standard") if rows is None else rows,
        "processing_class": build_tokenizer(),
        "peft_config": LoraConfig(**LORA),
    }
    return InnerPOTrainer(**(whole | given))


def adapter_of(trainer):
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora_" in n}


def logged(trainer, key):
    return [line[key] for line in trainer.state.log_history if key in line]


# -- beside TRL


def trls(folder, rows, order, evals, **changes):
    from trl import DPOConfig, DPOTrainer

    class Ordered(DPOTrainer):
        def _get_train_sampler(self, *_):
            return order

    small = vars(config(folder)) | changes
    names = {f.name for f in dataclasses.fields(DPOConfig)} & {
        *("output_dir", "per_device_train_batch_size", "num_train_epochs", "learning_rate", "logging_steps"),
        *("save_strategy", "disable_tqdm", "bf16", *changes),
    }
    trainer = Ordered(
        model=build_model(),
        args=DPOConfig(**{n: small[n] for n in names}, report_to="none"),
        train_dataset=rows,
        eval_dataset=evals,
        processing_class=build_tokenizer(),
        peft_config=LoraConfig(**LORA),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("form", ["standard", "implicit", "chat"])
def test_losses_are_those_of_trl(form, tmp_path):
    """Six steps of DPO, two epochs, accumulated: every logged loss, reward and log-probability, and evaluation."""
    rows, evals = rows_of(form, 12), {"id": rows_of(form, 4, 12), "ood": rows_of(form, 8, 16)}
    shared = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "max_length": 64,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "beta": 0.3,
    }
    mine = trainer_on(tmp_path / "ours", rows, method="dpo", eval_dataset=evals, **shared)
    mine.train()

    class Epochs(PairSampler):  # TRL's own loop does not know of epochs of this sampler
        def __iter__(self):
            found = super().__iter__()
            self.epoch += 1
            return found

    order = Epochs(len(mine.pairs.items), mine.args.seed)
    theirs = trls(tmp_path / "theirs", rows, order, evals, **shared)
    losses = logged(mine, "loss")
    assert losses == pytest.approx(logged(theirs, "loss"), abs=1e-4)
    assert len(losses) == 6
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(losses[-1] - losses[0]) > 0.02  # else the comparison would say little
    exact = form != "implicit"  # TRL ends a prompt within a word; the shared letters cancel in margins
    keys = ("rewards/margins", *(("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected") * exact))
    for key in keys:
        assert logged(mine, key) == pytest.approx(logged(theirs, key), abs=1e-3), key
    assert logged(mine, "learning_rate") == pytest.approx(logged(theirs, "learning_rate"))
    assert logged(mine, "grad_norm") == pytest.approx(logged(theirs, "grad_norm"), rel=1e-3)
    for name in evals:
        found = logged(mine, f"eval_{name}_loss")
        assert len(found) == 2
        assert found == pytest.approx(logged(theirs, f"eval_{name}_loss"), abs=1e-4)
    theirs, mine = adapter_of(theirs), adapter_of(mine)
    assert theirs.keys() == mine.keys()
    assert all(torch.allclose(theirs[n], mine[n], atol=1e-3) for n in theirs)


@pytest.mark.parametrize("form", ["standard", "implicit", "chat", "chat-implicit"])
def test_tokens_are_those_of_trl(form):
    """What the model is given, and which of it counts as completion, row by row, whole and cut."""
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    rows, tokenizer = rows_of(form, 24), build_tokenizer()
    pairs = pairs_of(rows, "rows", "error")
    whole = items_of(pairs, tokenizer, None, "rows")
    lengths = sorted(len(i.prompt) + len(i.responses[1]) for i in whole)
    for max_length in (None, lengths[12]):
        args = DPOConfig("x", bf16=False, max_length=max_length)
        prepared = DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), rows, tokenizer, args, "train")
        batch = DataCollatorForPreference(0, max_length).torch_call(list(prepared))
        items = items_of(pairs, tokenizer, max_length, "rows")
        assert len(items) == len(prepared)
        for i, item in enumerate(items):
            for k, response in enumerate(item.responses):
                row = k * len(items) + i
                n = int(batch["attention_mask"][row].sum())
                assert batch["input_ids"][row, :n].tolist() == [*item.prompt, *response]
                if form != "implicit":  # where TRL ends a prompt within a word
                    assert int(batch["completion_mask"][row].sum()) == len(response)
    before = {item.pairs: item.responses for item in whole}
    assert sum(item.responses != before[item.pairs] for item in items) > 2
    assert len(items) < len(whole)  # and there the prompt alone is too long


# -- the script, and what it leaves


def test_the_script_of_the_documentation(tmp_path):
    """The two lines are changed, the rest is TRL's; every default stands."""
    from innerpo.trl import InnerPOConfig as DPOConfig
    from innerpo.trl import InnerPOTrainer as DPOTrainer

    a, b = rows_of("standard", 8), rows_of("chat", 8)
    trainer = DPOTrainer(
        model=build_model(),
        args=DPOConfig(output_dir=str(tmp_path / "out"), beta=0.1),
        train_dataset=rows_of("standard", 8),
        eval_dataset={"id": a, "ood": b},
        processing_class=build_tokenizer(),
        peft_config=LoraConfig(**LORA),
    )
    trainer.train()
    trainer.save_model()
    assert trainer.method.config == overlay(default_run("innerpo").method, {"beta": 0.1}, "")
    loaded = PeftModel.from_pretrained(build_model(), tmp_path / "out")
    saved, trained = loaded.state_dict(), trainer.model.state_dict()
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], trained[name]) for name in saved)
    assert any(t.abs().max() > 0 for n, t in saved.items() if "lora_B" in n)
    inner = load_directions(tmp_path / "out")
    torch.testing.assert_close(inner.directions.w, trainer.inner_reward.directions.w)
    assert not (tmp_path / "out" / ".partial").exists()
    assert (tmp_path / "out" / "checkpoint-3" / "directions.safetensors").is_file()


@pytest.mark.parametrize("method", ["projbp", "innerpo"])
def test_trains_what_the_command_line_trains(method, tmp_path, toy_folder):
    from innerpo.data.sources import load_pairs
    from innerpo.run import train

    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of("standard", 24)))
    values = {
        "model": {"base_model": str(toy_folder), "lora_r": 4, "lora_alpha": 8, "dtype": "float32"},
        "data": {"dataset": str(path), "batch_size": 4},
        "training": {"lr": 5e-3, "max_steps": 4, "seed": 3, "gradient_accumulation": 2, "save_steps": 0},
        "eval": {"skip": True},
    }
    if method == "innerpo":
        values["method"] = {"layers": "1,2"}
    run = overlay(default_run(method), values, "test")
    run = dataclasses.replace(run, output_dir=tmp_path / "runs")
    expected = load_file(train(run).folder / "adapter_model.safetensors")
    rows = [
        {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}
        for p in load_pairs(str(path), "train", run.data)
    ]
    trainer = trainer_on(
        tmp_path / "ours",
        rows,
        model=str(toy_folder),
        processing_class=None,
        method=method,
        layers=values.get("method", {}).get("layers"),
        learning_rate=5e-3,
        max_steps=4,
        seed=3,
        gradient_accumulation_steps=2,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        gradient_checkpointing=False,
        eval_dataset={"again": rows[:8]},  # evaluation changes nothing
        eval_strategy="steps",
        eval_steps=2,
    )
    trainer.train()
    trainer.save_model()
    found = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(t.abs().max() > 1e-3 for n, t in found.items() if "lora_B" in n)


def test_resumes_from_a_checkpoint_and_keeps_the_best(tmp_path):
    shared = {
        "method": "dpo",
        "num_train_epochs": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 2,
        "eval_dataset": rows_of("standard", 4, 16),
        "eval_strategy": "steps",
        "eval_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "rewards/accuracies",
        "learning_rate": 3e-2,
    }
    whole = trainer_on(tmp_path / "whole", **shared)
    whole.train()
    steps = sorted(p.name for p in (tmp_path / "whole").glob("checkpoint-*"))
    best = Path(whole.state.best_model_checkpoint)
    assert best.parent == tmp_path / "whole"
    assert best.is_dir()
    assert "checkpoint-8" in steps
    assert len(steps) == 2
    saved = load_file(best / "adapter_model.safetensors")
    now = {n: p for n, p in whole.model.state_dict().items() if "lora_" in n}
    assert all(torch.equal(p, saved[n.replace(".default", "")]) for n, p in now.items())  # the best was loaded

    shared |= {"load_best_model_at_end": False, "lr_scheduler_type": "constant"}
    trainer_on(tmp_path / "parts", **shared, max_steps=4).train()
    second = trainer_on(tmp_path / "parts", **shared, max_steps=6)
    second.train(resume_from_checkpoint=True)
    straight = trainer_on(tmp_path / "straight", **shared, max_steps=6)
    straight.train()
    again, expected = adapter_of(second), adapter_of(straight)
    assert all(torch.allclose(again[n], expected[n], atol=1e-6) for n in expected)
    assert second.state.global_step == 6
    with pytest.raises(UserError, match="no checkpoint in"):
        trainer_on(tmp_path / "empty").train(resume_from_checkpoint=True)


# -- evaluation sets


def test_metrics_of_evaluation_sets_are_means_over_their_pairs(tmp_path):
    """Computed again by hand from plain forward passes, on sets that batches do not divide."""
    sets = {"a": rows_of("standard", 5, 16), "b": rows_of("chat", 3)}
    trainer = trainer_on(tmp_path, eval_dataset=sets, per_device_eval_batch_size=2, num_train_epochs=2)
    trainer.train()
    found = trainer.evaluate()
    policy = trainer.model.eval()
    for name, rows in sets.items():
        values = [by_hand(policy, row, trainer.method.config.beta) for row in rows]
        for i, key in enumerate(("rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")):
            mean = sum(v[i] for v in values) / len(values)
            assert found[f"eval_{name}_{key}"] == pytest.approx(mean, abs=2e-3), (name, key)
        output = sum(math.log1p(math.exp(-v[0])) for v in values) / len(values)
        assert found[f"eval_{name}_loss/output"] == pytest.approx(output, abs=1e-3)
        terms = trainer.method.term_weights
        loss = sum(w * found[f"eval_{name}_loss/{t}"] for t, w in terms.items())
        assert found[f"eval_{name}_loss"] == pytest.approx(loss, abs=1e-5)
    assert 0 < found["eval_a_rewards/accuracies"] <= 1
    assert abs(found["eval_a_rewards/margins"]) > 0.01
    assert any("eval_b_rewards/margins" in line for line in trainer.state.log_history)
    one = trainer.evaluate(
        sets["b"], metric_key_prefix="test"
    )  # other data, after training: the adapter is switched off
    assert one["test_loss"] == pytest.approx(found["eval_b_loss"], abs=1e-5)
    assert trainer.evaluate("b")["eval_loss"] == pytest.approx(found["eval_b_loss"])


@torch.no_grad()
def by_hand(policy, row, beta):
    tokenizer = build_tokenizer()
    if isinstance(row["prompt"], str):
        prompt = tokenizer(row["prompt"])["input_ids"]
        texts = [tokenizer(row["prompt"] + row[k])["input_ids"] + [1] for k in ("chosen", "rejected")]
    else:
        chat = {"tokenize": True, "return_dict": True}
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, **chat)["input_ids"]
        both = [row["prompt"] + row[k] for k in ("chosen", "rejected")]
        texts = [tokenizer.apply_chat_template(messages, **chat)["input_ids"] for messages in both]
    found = []
    for model in (policy, None):
        for ids in texts:
            n = next(i for i, (x, y) in enumerate(zip(ids, [*prompt, None], strict=False)) if x != y)
            if model is None:
                with policy.disable_adapter():
                    logits = policy(input_ids=torch.tensor([ids])).logits[0]
            else:
                logits = policy(input_ids=torch.tensor([ids])).logits[0]
            logps = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            found.append(logps[n - 1 :].sum().item())
    c, r, ref_c, ref_r = found
    margin = beta * ((c - r) - (ref_c - ref_r))
    return margin, (1.0 if margin > 0 else 0.0), c, r


# -- the model argument


def test_without_peft_config_the_model_is_trained_in_place(tmp_path):
    model = build_model()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    evals = {"eval_dataset": rows_of("standard", 4, 16), "eval_strategy": "epoch"}
    trainer = trainer_on(tmp_path, model=model, peft_config=None, learning_rate=1e-3, num_train_epochs=3, **evals)
    trainer.train()
    assert trainer.model is model
    assert not torch.equal(model.state_dict()["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert logged(trainer, "loss/output")[0] == pytest.approx(math.log(2), abs=1e-4)
    assert logged(trainer, "loss")[-1] < logged(trainer, "loss")[0]
    assert len(logged(trainer, "eval_loss")) == 3
    trainer.save_model()
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.model.embed_tokens.weight, model.model.embed_tokens.weight)
    with pytest.raises(UserError, match="after full fine-tuning the reference is gone"):
        trainer.evaluate(rows_of("standard", 4))


def test_weights_that_were_frozen_stay_so_in_full_fine_tuning(tmp_path):
    model = build_model()
    model.model.embed_tokens.requires_grad_(False)
    trainer = trainer_on(tmp_path, model=model, peft_config=None)
    assert not model.model.embed_tokens.weight.requires_grad
    assert model.model.layers[0].mlp.up_proj.weight.requires_grad
    with pytest.raises(UserError, match="no weight of the model is trained"):
        trainer_on(tmp_path, model=build_model().requires_grad_(False), peft_config=None)
    del trainer


def test_a_model_with_a_new_adapter_trains_like_one_with_peft_config(tmp_path):
    model = build_model()
    torch.manual_seed(42)
    own = trainer_on(tmp_path / "a", model=get_peft_model(model, LoraConfig(**LORA)), peft_config=None)
    made = trainer_on(tmp_path / "b", seed=42)
    for trainer in (own, made):
        trainer.train()
    a, b = adapter_of(own), adapter_of(made)
    assert all(torch.allclose(a[n], b[n], atol=1e-5) for n in b)
    with pytest.raises(UserError, match="trained already"):
        trainer_on(tmp_path, model=own.model, peft_config=None)
    with pytest.raises(UserError, match="has an adapter already"):
        trainer_on(tmp_path, model=own.model)


def test_reference_model_may_be_the_model_again(tmp_path):
    trainer_on(tmp_path, ref_model=build_model())
    peft = get_peft_model(build_model(), LoraConfig(**LORA))
    trainer_on(tmp_path, model=peft, peft_config=None, ref_model=build_model())
    with pytest.raises(UserError, match="ref_model has other weights than model"):
        trainer_on(tmp_path, ref_model=build_model(initializer_range=0.2))


def test_dropout_of_the_adapter_is_off_as_in_trl(tmp_path):
    a = trainer_on(tmp_path / "a", method="dpo", peft_config=LoraConfig(**LORA, lora_dropout=0.5))
    b = trainer_on(tmp_path / "b", method="dpo")
    for trainer in (a, b):
        trainer.train()
    assert logged(a, "loss") == pytest.approx(logged(b, "loss"), abs=1e-6)


@pytest.mark.parametrize("method", ["dpo", "innerpo"])
def test_mixed_precision_begins_at_the_reference(method, tmp_path):
    """The reference is rounded as the policy is: at the first step the two do not differ."""
    trainer = trainer_on(tmp_path, method=method, bf16=True, use_cpu=True, eval_dataset=rows_of("standard", 4))
    assert trainer.prepared.layout.layout == "one_row"
    assert trainer.evaluate()["eval_loss/output"] == pytest.approx(math.log(2), abs=1e-3)
    trainer.train()
    assert logged(trainer, "loss/output")[0] == pytest.approx(math.log(2), abs=1e-3)
    full = trainer_on(tmp_path, method=method)
    full.train()
    assert logged(trainer, "loss") == pytest.approx(logged(full, "loss"), abs=0.05)


def test_long_pairs_are_cut_as_in_trl(tmp_path):
    rows = [
        {"prompt": "one two", "chosen": " three" * 30, "rejected": " four" * 30},
        {"prompt": "word " * 40, "chosen": "a", "rejected": "b"},  # the prompt alone is too long
        {"prompt": "one two", "chosen": " three" * 30 + "x", "rejected": " three" * 30 + "y"},  # nothing left to tell
    ]
    trainer = trainer_on(tmp_path, rows, max_length=20, method="dpo")
    (item,) = trainer.pairs.items
    assert {len(item.prompt) + len(r) for r in item.responses} == {20}
    whole = trainer_on(tmp_path, rows, max_length=None, method="dpo")
    assert [len(i.responses) for i in whole.pairs.items] == [2, 2, 2]
    assert all(r[-1] == 1 for i in whole.pairs.items for r in i.responses)


def test_pairs_longer_than_the_model_are_refused(tmp_path):
    rows = [{"prompt": "one two", "chosen": " three" * 600, "rejected": " four"}] * 2
    with pytest.raises(UserError, match="2 of 2 pairs of train_dataset are longer than the model's 512 positions; max"):
        trainer_on(tmp_path, rows, method="dpo")
    (item, _) = trainer_on(tmp_path, rows, method="dpo", max_length=512).pairs.items
    assert len(item.prompt) + len(item.responses[0]) == 512


def test_a_few_steps_need_the_reference_of_their_pairs_only(tmp_path):
    trainer = trainer_on(tmp_path, method="dpo", ld_alpha=0.5, max_steps=3)
    assert trainer.method.config.output == "lddpo"  # which reads the log-probabilities of tokens too
    assert trainer.prepared.reference.logps.isnan().sum() == 2 * (16 - 3 * 4)
    trainer.train()
    assert len(logged(trainer, "loss")) == 3
    other = trainer_on(tmp_path, method="lddpo", max_steps=3, data_seed=5)
    assert not other.prepared.reference.logps.isnan().any()
    other.train()
    assert logged(other, "loss")[1:] != pytest.approx(logged(trainer, "loss")[1:], abs=1e-6)  # another order


# -- arguments


def test_every_argument_of_trl_is_accounted_for():
    from trl import DPOConfig, DPOTrainer

    mine = {f.name: f for f in dataclasses.fields(InnerPOConfig)}
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    tables = (arguments.SUPPORTED, arguments.WITHOUT_EFFECT, arguments.REFUSED)
    named = [name for table in tables for name in table]
    assert len(named) == len(set(named))
    for f in dataclasses.fields(DPOConfig):
        assert f.name in mine, f"{f.name} would be an unknown argument"
        assert f.name in named or f.name in known, f"{f.name} is in no table"
    assert set(named) <= {f.name for f in dataclasses.fields(DPOConfig)}
    # Where the default is another one than TRL's.
    same = {"beta": None, "label_smoothing": None, "ddp_find_unused_parameters": False}
    for f in dataclasses.fields(DPOConfig):
        expected = same.get(f.name, f.default)
        found = mine[f.name]
        assert found.default == expected or f.name in same, f.name
        if f.default is dataclasses.MISSING:
            assert found.default_factory() == f.default_factory(), f.name
    parameters = [p for p in inspect.signature(DPOTrainer.__init__).parameters if p != "self"]
    assert parameters == list(arguments.PARAMETERS) or set(parameters) == set(arguments.PARAMETERS)
    assert parameters == [p for p in inspect.signature(InnerPOTrainer.__init__).parameters if p != "self"]


def test_every_option_of_a_method_is_a_field():
    fields = {f.name for f in dataclasses.fields(InnerPOConfig)}
    options = {f.name for f in dataclasses.fields(MethodConfig)}
    assert options - fields == set(NOT_FIELDS)
    assert not options & {f.name for f in dataclasses.fields(TrainingArguments)}


def test_the_documentation_has_the_table_of_arguments():
    assert arguments.argument_table() in (ROOT / "docs" / "from-trl.md").read_text()


def test_refused_arguments_name_what_to_use_instead(tmp_path):
    others = {"router_aux_loss_coef": 0.1, "torch_compile_backend": "inductor", "torch_compile_mode": "default"}
    for name, refused in arguments.REFUSED.items():
        default = refused.accepted[0]
        other = not default if isinstance(default, bool) else others.get(name, 0.5)
        with pytest.raises(UserError) as caught:
            config(tmp_path, **{name: other})
        assert str(caught.value).startswith(f"{name} can only be")
        assert refused.instead in str(caught.value)
        assert "\n" not in str(caught.value)
        for accepted in refused.accepted:
            config(tmp_path, **{name: accepted})


def test_arguments_without_effect_are_said_to_have_none(tmp_path, caplog):
    caplog.set_level("WARNING")
    config(tmp_path)
    assert not caplog.text
    config(tmp_path, padding_free=True, precompute_ref_log_probs=True, use_liger_kernel=True)
    assert [r.message.split(" ")[0] for r in caplog.records] == [
        "precompute_ref_log_probs=True",
        "padding_free=True",
        "use_liger_kernel=True",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "nca_pair"}, r"loss_type can only be one of sigmoid, .*here, got \['nca_pair'\]: see output"),
        ({"loss_type": "hinge", "ld_alpha": 0.5}, r"ld_alpha applies to loss_type 'sigmoid' .*, not to 'hinge'"),
        ({"loss_type": "sigmoid", "label_smoothing": 0.1}, "label_smoothing applies to loss_type 'robust' .*'dpo'"),
        ({"loss_type": "robust", "label_smoothing": 0.5}, "label_smoothing must be at least 0 and below 0.5, got 0.5"),
        ({"ld_alpha": 1.5}, "ld_alpha must be from 0 to 1, got 1.5"),
        ({"loss_type": ["sigmoid", "ipo"]}, "loss_type can only be one of"),
        ({"loss_type": "ipo", "output": "dpo"}, "name one thing twice"),
        (
            {"loss_type": "hinge", "method": "residual"},
            r"'residual' has a loss on outputs of its own \(residual\)",
        ),
        ({"loss_type": "ipo", "method": "simpo"}, r"of its own \(simpo\), which loss_type=\['ipo'\] would replace"),
        ({"method": "inerpo"}, "unknown method 'inerpo'; did you mean 'innerpo'"),
        ({"method": "probe"}, r"method='probe' trains nothing; innerpo.train\(base, 'probe'\)"),
        ({"method": "dpo", "alpha": 0.3}, "dpo has no terms on hidden states, got inner; use innerpo"),
        ({"pool": "median"}, "InnerPOConfig.pool: 'median' is not one of mean, last, first_divergence"),
        ({"subspace": {"rnk": 4}}, "InnerPOConfig.subspace: unknown key 'rnk'; did you mean 'rank'"),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant can only be False"),
        ({"layout": "rows"}, "layout: 'rows' is not one of auto, one_row, packed, concatenated"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        config(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_wrong_parameters_are_refused_in_one_line(tmp_path, toy_folder):
    from peft import PromptTuningConfig

    identical = [{"prompt": "a", "chosen": " b", "rejected": " c"}, {"prompt": "a", "chosen": " b", "rejected": " b"}]
    virtual = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    cases = [
        ({"data_collator": print}, "data_collator cannot be given: "),
        ({"compute_metrics": print}, "compute_metrics cannot be given: "),
        ({"train_dataset": None}, "train_dataset is required"),
        ({"train_dataset": rows_of("chat").to_iterable_dataset()}, r"train_dataset must be .* list\(stream.take"),
        ({"train_dataset": [{"prompt": "a", "chosen": "b"}]}, "train_dataset, row 0: has no column 'rejected'"),
        ({"train_dataset": identical}, r"row 1: chosen and rejected are identical \(on_bad_row='skip'"),
        ({"train_dataset": [{**identical[0], "images": ["x"]}]}, "the column 'images' is not supported"),
        ({"eval_dataset": {"a": []}}, r"eval_dataset\['a'\] has no pair"),
        ({"processing_class": "gpt2"}, "processing_class must be a tokenizer, got str"),
        ({"peft_config": virtual}, "PromptTuningConfig does not only change weights"),
        ({"peft_config": LoraConfig(**LORA, bias="all")}, "LoraConfig has bias=all, which changes the model's own"),
        ({"peft_config": LoraConfig(**LORA, init_lora_weights="pissa")}, "LoraConfig has init_lora_weights=pissa"),
        ({"ref_model": "gpt2"}, "ref_model must be a model or None, got str"),
        ({"peft_config": LoraConfig(target_modules=["qq"])}, "peft_config does not fit the model: .*qq"),
        ({"quantization_config": object()}, "quantization_config is for a model given by name"),
        ({"model": str(tmp_path / "nowhere")}, "cannot load the model '.*nowhere'"),
    ]
    for changes, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            trainer_on(tmp_path, **changes)
        assert "\n" not in str(caught.value)
    assert len(trainer_on(tmp_path, identical, on_bad_row="skip", method="dpo").pairs.items) == 1
    with pytest.raises(UserError, match="nothing to evaluate"):
        trainer_on(tmp_path, identical[:1], method="dpo").evaluate()
    with pytest.raises(UserError, match=r"args must be an InnerPOConfig .* got TrainingArguments"):
        _arguments(TrainingArguments(str(tmp_path)), None)


def test_errors_of_training_name_arguments_of_the_config(tmp_path):
    trainer = trainer_on(tmp_path, learning_rate=1e30, max_grad_norm=0.0, num_train_epochs=3)
    with pytest.raises(UserError, match=r"not finite at step \d+ .*a lower learning_rate \(now 1e\+30\)"):
        trainer.train()


def test_a_type_of_weights_that_torch_does_not_have(tmp_path, toy_folder):
    with pytest.raises(UserError, match="dtype='fp16' is not auto, float32, bfloat16 or float16"):
        trainer_on(tmp_path, model=str(toy_folder), model_init_kwargs={"dtype": "fp16"})


def test_directions_of_an_earlier_training_do_not_stay_beside_another_adapter(tmp_path):
    trainer_on(tmp_path).save_model()
    assert (tmp_path / "directions.safetensors").is_file()
    trainer_on(tmp_path, method="dpo").save_model()
    assert not (tmp_path / "directions.safetensors").exists()


def test_options_from_a_command_line():
    words = [
        *("--output_dir", "x", "--method", "innerpo-svd", "--alpha", "0.5", "--subspace", '{"rank": 4}'),
        *("--layers", "1,2", "--remove", "length", "logprob", "--bf16", "false", "--extra", '{"sft": 0.25}'),
    ]
    (found,) = HfArgumentParser(InnerPOConfig).parse_args_into_dataclasses(words)
    method = found.method_config()
    assert (method.transform, method.alpha, method.subspace.rank, method.layers) == ("svd", 0.5, 4, "1,2")
    assert (method.remove, method.extra) == (("length", "logprob"), {"sft": 0.25})
    assert method.gamma == MethodConfig().gamma
    assert InnerPOConfig("x", loss_type="ipo", bf16=False).method_config().output == "ipo"
    assert InnerPOConfig("x", loss_type="ipo", method="ipo", bf16=False).method_config().output == "ipo"  # said twice


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"loss_type": "sigmoid_norm"}, ("dpo_norm", 0.1)),
        ({"loss_type": "robust", "label_smoothing": 0.2}, ("robust", 0.2)),
        ({"loss_type": "robust"}, ("robust", 0.0)),  # TRL's default
        ({"output": "cdpo"}, ("cdpo", 0.1)),
        ({"method": "cdpo", "label_smoothing": 0.3}, ("cdpo", 0.3)),
        ({"label_smoothing": 0.0}, ("dpo", 0.0)),
        ({"ld_alpha": 0.25}, ("lddpo", 0.1)),
        ({"method": "lddpo", "ld_alpha": 0.25}, ("lddpo", 0.1)),
    ],
)
def test_losses_of_trl_are_output_forms(changes, expected, tmp_path):
    method = config(tmp_path, **({"method": "dpo"} | changes)).method_config()
    assert (method.output, method.label_smoothing) == expected
    assert method.ld_alpha == changes.get("ld_alpha", 0.5)


# -- several processes

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_trl_dropin import *
trainer = trainer_on(
    {folder!r}, rows_of("standard", 16), method={method!r}, per_device_train_batch_size={batch}, seed=7,
    eval_dataset={{"id": rows_of("standard", 5, 16)}}, eval_strategy="epoch", per_device_eval_batch_size=2,
)
trainer.train()
trainer.save_model()
if trainer.is_world_process_zero():
    lines = [line for line in trainer.state.log_history if "train_loss" not in line]
    print("FOUND" + json.dumps([trainer.args.world_size, *lines]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["innerpo"])
def test_two_processes_train_what_one_does(method, tmp_path):
    results = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        script = tmp_path / f"script{processes}.py"
        words = {"tests": str(ROOT / "tests"), "folder": str(folder), "method": method, "batch": 8 // processes}
        script.write_text(SCRIPT.format(**words))
        launch = ["-m", "accelerate.commands.launch", "--num_processes", str(processes), "--num_machines", "1"]
        launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "29623"]
        launch += ["--multi_gpu"] if processes > 1 else []  # that is several processes, here without GPUs
        code = os.pathsep.join(map(str, (ROOT / "src", ROOT)))
        done = subprocess.run(
            [sys.executable, *launch, str(script)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": code},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
        found = json.loads(line.removeprefix("FOUND"))
        assert found.pop(0) == processes
        results[processes] = load_file(folder / "adapter_model.safetensors"), found
    (one, log_of_one), (two, log_of_two) = results[1], results[2]
    assert max((one[n] - two[n]).abs().max().item() for n in one) < 1e-5
    assert max(one[n].abs().max().item() for n in one if "lora_B" in n) > 1e-3
    assert len(log_of_one) == len(log_of_two) == 3
    for a, b in zip(log_of_one, log_of_two, strict=True):
        times = {name for name in a if name.split("_", 2)[-1] in ("runtime", "samples_per_second")}
        times.add("rewards/accuracies")  # at the first step margins are 0 but for rounding
        shares = {name for name in a if name.startswith("grad_share")}
        assert a.keys() - shares == b.keys()
        assert {n: a[n] for n in b.keys() - times} == pytest.approx({n: b[n] for n in b.keys() - times}, abs=1e-4)
