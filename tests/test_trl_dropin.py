"""InnerPOTrainer in place of TRL's DPOTrainer: the same script, beside TRL itself and beside `innerpo train`."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from conftest import build_model, build_tokenizer, make_pairs
from innerpo.training.sampler import PairSampler
from innerpo.trl import InnerPOConfig, InnerPOTrainer, arguments

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
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("INNERPO_CACHE", str(tmp_path_factory.getbasetemp() / "innerpo-cache"))


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


@pytest.mark.parametrize("form", ["standard", "implicit", "chat", "chat-implicit"])
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
    lengths = [i.n_tokens for i in mine.pairs.items]
    order = PairSampler(lengths, 4, mine.args.seed)
    mine.train()

    class Epochs(PairSampler):  # TRL's own loop does not know of epochs of this sampler
        def __iter__(self):
            found = super().__iter__()
            self.epoch += 1
            return found

    order = Epochs(lengths, 4, mine.args.seed)
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
