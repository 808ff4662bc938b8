"""DPO against TRL's DPOTrainer itself, pair by pair, in float32."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from conftest import build_model, build_tokenizer, make_pairs
from innerpo.config.data import DataConfig
from innerpo.config.run import default_run
from innerpo.data.batching.batch import make_batch
from innerpo.data.pairs import choose_negatives
from innerpo.data.sources import load_pairs
from innerpo.data.tokens import PairTokenizer
from innerpo.methods.method import build_method
from innerpo.methods.records import PairOutputs
from innerpo.methods.transforms.transform import IDENTITY
from innerpo.model.base import reference_mode
from innerpo.model.forward.outputs import sequence_outputs

# TRL's import is slow and its deprecations are not ours.
pytestmark = [pytest.mark.filterwarnings("ignore")]


LORA = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_alpha=1, task_type="CAUSAL_LM")


def policy_of(model):
    """An adapter that already changes the model, so that the losses are not all log 2."""
    torch.manual_seed(5)
    return get_peft_model(model, LORA)


def ours(policy, tokenizer, pairs, beta, layout, name="dpo", **changes):
    items = PairTokenizer(tokenizer, 512, 512).training_items(pairs)
    assert len(items) == len(pairs)
    method = build_method(replace(default_run(name).method, **changes), ())
    assert method.config.beta == beta
    losses = []
    for start in range(0, len(items), 8):
        batch = make_batch(items[start : start + 8], layout, tokenizer.pad_token_id)
        with torch.no_grad():
            out = PairOutputs.of(sequence_outputs(policy.eval(), batch), batch, IDENTITY)
        with reference_mode(policy):
            ref = PairOutputs.of(sequence_outputs(policy, batch), batch, IDENTITY)
        losses += method.loss(out, ref).per_pair.tolist()
    return losses


def trls(model, policy, tokenizer, pairs, beta, tmp_path, loss_type="sigmoid", **changes):
    """The losses of DPOTrainer, a batch of one pair at a time, so that each is seen before the mean.

    TRL makes its own adapter (given one, it would take a copy of it as the reference) and gets our policy's weights.
    """
    from trl import DPOConfig, DPOTrainer

    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    args = DPOConfig(
        output_dir=str(tmp_path),
        beta=beta,
        loss_type=loss_type,
        per_device_train_batch_size=1,
        report_to="none",
        max_length=None,
        bf16=False,
        gradient_checkpointing=False,
        **changes,
    )
    data = Dataset.from_list(rows)
    trainer = DPOTrainer(model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=LORA)
    weights = {n: p for n, p in policy.state_dict().items() if "lora_" in n}
    assert weights.keys() == {n for n in trainer.model.state_dict() if "lora_" in n}
    trainer.model.load_state_dict(weights, strict=False)
    trainer.model.eval()
    losses = []
    for i in range(len(rows)):
        inputs = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i]]))
        with torch.no_grad():
            losses.append(trainer.compute_loss(trainer.model, inputs).item())
    return losses


@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_toy_pairs(tmp_path, layout):
    tokenizer, pairs = build_tokenizer(), make_pairs(12)
    policy = policy_of(build_model())
    found = ours(policy, tokenizer, pairs, 0.1, layout)
    expected = trls(build_model(), policy, tokenizer, pairs, 0.1, tmp_path)
    assert found == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.05  # else the comparison would say nothing


@pytest.mark.parametrize("name", ["ipo", "sft"])
def test_other_losses_of_trl(tmp_path, name):
    """TRL's sft averages over the tokens of a batch; in batches of one pair it is ours."""
    tokenizer, pairs = build_tokenizer(), make_pairs(6)
    policy = policy_of(build_model())
    found = ours(policy, tokenizer, pairs, 0.1, "concatenated", name)
    expected = trls(build_model(), policy, tokenizer, pairs, 0.1, tmp_path, name)
    assert found == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.05


LOSSES = {
    "dpo-norm": ("sigmoid_norm", 5.0, {}),
    "hinge": ("hinge", 0.1, {}),
    "robust-dpo": ("robust", 0.1, {"label_smoothing": 0.2}),
    "apo-zero": ("apo_zero", 0.1, {}),
    "apo-down": ("apo_down", 0.1, {}),
    "lddpo": ("sigmoid", 0.1, {"ld_alpha": 0.3}),
}
"""Method -> TRL's name of its loss, beta, and options, which have TRL's names."""


@pytest.mark.parametrize("name", LOSSES)
def test_output_forms_are_trls(tmp_path, name):
    tokenizer, pairs = build_tokenizer(), make_pairs(6)
    policy = policy_of(build_model())
    loss_type, beta, options = LOSSES[name]
    found = ours(policy, tokenizer, pairs, beta, "one_row", name, **options)
    expected = trls(build_model(), policy, tokenizer, pairs, beta, tmp_path, loss_type, **options)
    assert found == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.02
    plain = ours(policy, tokenizer, pairs, 0.1, "one_row")
    assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) > 0.01  # it is another loss than DPO's


def test_simpo_is_trls():
    """TRL has SimPO in its CPOTrainer, as a function of mean log-probabilities."""
    from trl.experimental.cpo import CPOTrainer

    from innerpo.methods.outputs.simpo import simpo_loss

    chosen, rejected = torch.tensor([-4.0, -9.0, -2.0]), torch.tensor([-20.0, -3.0, -2.0])
    n_c, n_r = torch.tensor([2, 3, 5]), torch.tensor([4, 7, 2])
    trl_says = SimpleNamespace(
        alpha=0.0,
        loss_type="simpo",
        simpo_gamma=1.3,
        beta=2.0,
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    expected = CPOTrainer.cpo_loss(trl_says, chosen / n_c, rejected / n_r)[0]
    torch.testing.assert_close(simpo_loss(PairOutputs(chosen, rejected, n_c, n_r), 2.0, 1.3), expected)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a real model, beside other tests on two cores
def test_32_genies_pairs(tmp_path, genies_dir):
    """The same 32 pairs of truthful_qa in both, with SmolLM2-135M-Instruct."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from innerpo.files import cache_root
    from innerpo.model.embedded import embedded_model_folder

    folder = embedded_model_folder(cache_root(None))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = DataConfig(genies_dir=genies_dir)
    pairs = choose_negatives(load_pairs("truthful_qa", "train", data), "one", 0)[:32]

    def model():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    torch.set_num_threads(2)
    try:
        policy = policy_of(model())
        found = ours(policy, tokenizer, pairs, 0.1, "one_row")
        expected = trls(model(), policy, tokenizer, pairs, 0.1, tmp_path)
    finally:
        torch.set_num_threads(1)
    assert found == pytest.approx(expected, abs=1e-4), json.dumps([found, expected])
    assert max(expected) - min(expected) > 0.05
