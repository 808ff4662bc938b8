"""Saved adapters of peft's other kinds: those that change weights are scored as peft runs them, others are refused."""

import peft
import pytest
import torch

from conftest import build_model
from innerpo.data.batching.batch import make_batch
from innerpo.errors import UserError
from innerpo.model.adapters import check_bare, load_adapter, merge_adapter, remove_adapter, take_off_parts
from innerpo.model.base import Base
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.training.artifacts import load_policy

TARGETS = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
WEIGHTS = {
    "LoRA": peft.LoraConfig(**TARGETS, r=4, init_lora_weights=False),
    "DoRA": peft.LoraConfig(**TARGETS, r=4, use_dora=True, init_lora_weights=False),
    "AdaLoRA": peft.AdaLoraConfig(**TARGETS, init_r=4, target_r=2, total_step=10, init_lora_weights=False),
    "IA3": peft.IA3Config(**TARGETS, feedforward_modules=["down_proj"], init_ia3_weights=False),
    "LoHa": peft.LoHaConfig(**TARGETS, r=4, init_weights=False),
    "LoKr": peft.LoKrConfig(**TARGETS, r=4, init_weights=False),
    "OFT": peft.OFTConfig(**TARGETS, r=4, oft_block_size=0, init_weights=False),
    "BOFT": peft.BOFTConfig(**TARGETS, boft_block_size=4, init_weights=False),
    "VeRA": peft.VeraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", r=4, init_weights=False),
}
TOKENS = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
OTHERS = {
    "PROMPT_TUNING": peft.PromptTuningConfig(**TOKENS),
    "P_TUNING": peft.PromptEncoderConfig(**TOKENS, encoder_hidden_size=16),
    "PREFIX_TUNING": peft.PrefixTuningConfig(**TOKENS),
    "ADAPTION_PROMPT": peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM"),
    "POLY": peft.PolyConfig(**TARGETS, r=4, n_tasks=2, n_skills=2, n_splits=1),
}


def one_at_a_time(policy, items):
    """Log-probabilities by peft's own forward pass, each response in a row of its own."""
    found = []
    for ids, n in ((torch.tensor([[*i.prompt, *r]]), len(r)) for i in items for r in i.responses):
        logps = policy(input_ids=ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        found.append(logps[-n:].sum())
    return torch.stack(found)


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.filterwarnings("ignore::UserWarning")
@torch.no_grad()
def test_adapters_that_change_weights(kind, tokenizer, items, tmp_path):
    torch.manual_seed(0)
    peft.get_peft_model(build_model(), WEIGHTS[kind]).save_pretrained(tmp_path)
    base = Base(build_model(), tokenizer, "toy", "toy")
    before = one_at_a_time(base.model, items[:4])
    expected = one_at_a_time(peft.PeftModel.from_pretrained(build_model(), tmp_path), items[:4])
    assert (expected - before).abs().max() > 0.5
    policy = load_adapter(base, tmp_path).eval()
    for layout in ("one_row", "concatenated"):
        found = sequence_outputs(policy, make_batch(items[:4], layout, 0)).logps
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
@torch.no_grad()
def test_a_module_that_an_adapter_saves_is_the_bases_again_when_it_is_off(tokenizer, items, tmp_path):
    """peft would leave the trained copy in the base, of which later runs would take it for their own."""
    config = peft.LoraConfig(**TARGETS, r=4, init_lora_weights=False, modules_to_save=["lm_head"])
    policy = peft.get_peft_model(build_model(), config)
    for p in policy.parameters():
        p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) if p.requires_grad else 0.0
    policy.save_pretrained(tmp_path)
    base = Base(build_model(), tokenizer, "toy", "toy")
    before, tensors = one_at_a_time(base.model, items[:2]), {k: v.clone() for k, v in base.model.state_dict().items()}
    loaded = load_adapter(base, tmp_path).eval()
    assert (one_at_a_time(loaded, items[:2]) - before).abs().max() > 0.5
    remove_adapter(base, loaded)
    assert torch.equal(one_at_a_time(base.model, items[:2]), before)
    after = base.model.state_dict()
    assert list(after) == list(tensors)
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())


def test_a_saved_module_goes_where_loading_fails_half_way(tokenizer):
    """Its copy would stay in the place of the base's own."""
    base = Base(build_model(), tokenizer, "toy", "toy")
    head = base.model.lm_head
    peft.get_peft_model(base.model, peft.LoraConfig(**TARGETS, r=4, modules_to_save=["lm_head"]))
    take_off_parts(base.model)
    assert base.model.lm_head is head
    check_bare(base)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bias": "all"}, "bias=all"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"init_lora_weights": "olora"}, "init_lora_weights=olora"),
        ({"layer_replication": [(0, 2), (1, 4)]}, "layer_replication"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
@torch.no_grad()
def test_adapters_that_change_the_bases_own_weights_are_refused_but_for_a_merge(
    options, says, tokenizer, items, tmp_path
):
    peft.get_peft_model(build_model(), peft.LoraConfig(**TARGETS, r=4, **options)).save_pretrained(tmp_path)
    base = Base(build_model(), tokenizer, "toy", "toy")
    tensors = {k: v.clone() for k, v in base.model.state_dict().items()}
    with pytest.raises(UserError, match=f"the adapter in .* has {says}, which changes the base's own weights"):
        load_adapter(base, tmp_path)
    assert all(torch.equal(v, tensors[k]) for k, v in base.model.state_dict().items())
    if says == "layer_replication":
        return
    expected = one_at_a_time(peft.PeftModel.from_pretrained(build_model(), tmp_path).eval(), items[:2])
    merged = merge_adapter(base, load_adapter(base, tmp_path, spent=True)).eval()
    torch.testing.assert_close(one_at_a_time(merged, items[:2]), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_that_do_more_are_refused(kind, tokenizer, tmp_path):
    peft.get_peft_model(build_model(), OTHERS[kind]).save_pretrained(tmp_path)
    base = Base(build_model(), tokenizer, "toy", "toy")
    with pytest.raises(UserError, match=rf"adapter in .* is of peft's kind {kind}, .*LoRA, DoRA"):
        load_adapter(base, tmp_path)
    assert not hasattr(base.model, "peft_config")


def test_an_unknown_kind_is_refused_by_name(tokenizer, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "NOVEL"}')
    with pytest.raises(UserError, match=r"adapter_config.json is no peft adapter that this peft knows: .*NOVEL"):
        load_adapter(Base(build_model(), tokenizer, "toy", "toy"), tmp_path)


def test_a_full_fine_tune_is_loaded_with_the_attention_of_its_base(tokenizer, tmp_path):
    build_model().save_pretrained(tmp_path)
    base = Base(build_model(attn_implementation="eager"), tokenizer, "toy", "toy")
    assert load_policy(base, tmp_path).config._attn_implementation == "eager"
