"""The policy at a strength: logits of base + s * update, and afterwards the policy that it was."""

import copy

import peft
import pytest
import torch

from conftest import build_model
from innerpo.data.batching.batch import make_batch
from innerpo.errors import UserError
from innerpo.model.adapters import load_adapter
from innerpo.model.base import Base
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.model.strength import at_strength, is_noop
from test_adapter_kinds import TARGETS, WEIGHTS

SCALABLE = ("LoRA", "AdaLoRA", "LoHa", "LoKr")


def saved(kind, folder, **changes):
    torch.manual_seed(0)
    config = copy.deepcopy(WEIGHTS[kind])
    for name, value in changes.items():
        setattr(config, name, value)
    peft.get_peft_model(build_model(), config).save_pretrained(folder)
    base = Base(build_model(), None, "toy", "toy")
    return base, load_adapter(base, folder).eval()


@torch.no_grad()
def logps(model, items):
    return sequence_outputs(model, make_batch(items[:3], "concatenated", 0)).logps


def with_update(base, policy, strength):
    """The base with strength times each layer's full update, written into its weights."""
    plain = build_model()
    plain.load_state_dict(base)
    for name, layer in policy.base_model.model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            plain.get_submodule(name).weight.data += strength * layer.get_delta_weight("default")
    return plain


@pytest.mark.parametrize("kind", SCALABLE)
@pytest.mark.filterwarnings("ignore::UserWarning")
@torch.no_grad()
def test_an_added_update_is_scaled(kind, items, tmp_path):
    before = {k: v.clone() for k, v in build_model().state_dict().items()}
    base, policy = saved(kind, tmp_path)
    own = logps(policy, items)
    for strength in (0.0, 0.25, 1.5, -0.5):
        with at_strength(policy, strength, base.model):
            found = logps(policy, items)
        torch.testing.assert_close(found, logps(with_update(before, policy, strength), items), atol=2e-4, rtol=1e-5)
        assert (found - own).abs().max() > 1e-2
    assert torch.equal(logps(policy, items), own)  # to the bit
    with pytest.raises(ZeroDivisionError), at_strength(policy, 0.3, base.model):
        raise ZeroDivisionError
    assert torch.equal(logps(policy, items), own)


@pytest.mark.parametrize("kind", [k for k in WEIGHTS if k not in SCALABLE])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_updates_are_refused_between_0_and_1(kind, items, tmp_path):
    base, policy = saved(kind, tmp_path)
    with pytest.raises(UserError, match=r"eval\.strengths other than 0 and 1 need an adapter whose update is added"):
        at_strength(policy, 0.5, base.model).__enter__()
    own = logps(policy, items)
    with at_strength(policy, 0.0, base.model):
        torch.testing.assert_close(logps(policy, items), logps(build_model(), items), atol=1e-5, rtol=1e-6)
    with at_strength(policy, 1.0, base.model):
        assert torch.equal(logps(policy, items), own)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"), ({"bias": "all"}, "bias=all")],
)
def test_what_is_trained_beside_the_update_is_refused(changes, says):
    config = copy.deepcopy(WEIGHTS["LoRA"])
    for name, value in changes.items():
        setattr(config, name, value)
    base, policy = Base(build_model(), None, "toy", "toy"), peft.get_peft_model(build_model(), config)
    with pytest.raises(UserError, match=f"cannot scale this adapter: it has {says}"):
        at_strength(policy, 0.5, base.model).__enter__()


@torch.no_grad()
def test_a_fully_tuned_policy_lies_between(items):
    base, policy = build_model(), build_model()
    for p in policy.parameters():
        p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    own = logps(policy, items)
    halfway = build_model()
    for p, a, b in zip(halfway.parameters(), base.parameters(), policy.parameters(), strict=True):
        p.copy_((a + b) / 2)
    with at_strength(policy, 0.5, base):
        torch.testing.assert_close(logps(policy, items), logps(halfway, items), atol=1e-4, rtol=1e-5)
    assert torch.equal(logps(policy, items), own)


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "AdaLoRA", "LoHa", "LoKr"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_untrained_adapter_is_a_noop_by_its_weights(kind, tmp_path):
    config = {"LoRA": peft.LoraConfig, "DoRA": peft.LoraConfig, "AdaLoRA": peft.AdaLoraConfig}
    config |= {"LoHa": peft.LoHaConfig, "LoKr": peft.LoKrConfig}
    more = {"DoRA": {"use_dora": True}, "AdaLoRA": {"total_step": 10}}.get(kind, {})
    assert is_noop(peft.get_peft_model(build_model(), config[kind](**TARGETS, **more)))
    assert not is_noop(peft.get_peft_model(build_model(), WEIGHTS[kind]))
    assert not is_noop(build_model())
