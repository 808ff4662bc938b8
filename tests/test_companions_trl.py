"""Companions in InnerPOTrainer: training and evaluation sets have them too."""

import math

import pytest
from datasets import Dataset
from peft import LoraConfig

from conftest import build_model, build_tokenizer, make_pairs
from innerpo.trl import InnerPOConfig, InnerPOTrainer


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mismatch-foreign", "anchor-drift"])
def test_an_evaluation_set_has_companions_of_its_own(method, tmp_path):
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in make_pairs(8)]
    args = InnerPOConfig(
        str(tmp_path),
        method=method,
        layers="0,1",
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        report_to=[],
        use_cpu=True,
        bf16=False,
        cache_dir=str(tmp_path / "cache"),
    )
    trainer = InnerPOTrainer(
        build_model(),
        args=args,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:4]),
        processing_class=build_tokenizer(),
        peft_config=LoraConfig(r=4, target_modules="all-linear"),
    )
    names = {"mismatch-foreign": ("mismatch", "foreign"), "anchor-drift": ("anchor_drift",)}[method]
    before = trainer.evaluate()
    for name in names:
        expected = math.log(2) if name == "foreign" else 0.0
        assert before[f"eval_loss/{name}"] == pytest.approx(expected, abs=1e-5)
    trainer.train()
    after = trainer.evaluate()
    assert all(after[f"eval_loss/{n}"] != before[f"eval_loss/{n}"] for n in names)
