"""An adapted layer as one sum: hand-worked values, parity with peft, and what bfloat16 does to a small adapter."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from conftest import build_model
from innerpo.config import ModelConfig
from innerpo.model.adapted import adapted_linear, sum_at_once
from innerpo.model.load import LoadedModel, add_adapter, reference_mode
from innerpo.training.artifacts import load_policy

IDS = torch.tensor([[5, 9, 33, 71, 8, 2], [40, 41, 6, 7, 12, 90]])


def adapted(model=None, **changes):
    """A toy with an adapter of random A and B, as peft runs it."""
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 4, "target_modules": "all-linear", "init_lora_weights": False} | changes)
    return get_peft_model(model or build_model(), config)


def linear_layers(policy):
    return [m for m in policy.modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer")]


def test_by_hand():
    x = torch.tensor([[1.0, 2.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    a, b = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0], [0.0], [2.0]])
    # x W^T = [1, 2, 3], x A^T = [-1], 2 (x A^T) B^T = [-2, 0, -4]
    assert adapted_linear(x, weight, None, a, b, 2.0).tolist() == [[-1.0, 2.0, -1.0]]
    assert adapted_linear(x, weight, torch.tensor([1.0, 1.0, 0.5]), a, b, 2.0).tolist() == [[0.0, 3.0, -0.5]]
    # with dropout the adapter sees something else: [2, 0] A^T = [2], 2 * 2 B^T = [4, 0, 8]
    seen = torch.tensor([[2.0, 0.0]])
    assert adapted_linear(x, weight, None, a, b, 2.0, seen).tolist() == [[5.0, 2.0, 11.0]]


def test_bfloat16_is_rounded_after_the_sum():
    """Near 1 bfloat16 has steps of 2^-7 = 8/1024: 1 + 3/1024 and 3/1024 more are 1 + 6/1024, nearest to 1 + 8/1024."""
    half = {"dtype": torch.bfloat16}
    x, weight = torch.tensor([[1.0, 1.0]], **half), torch.tensor([[1.0, 3 / 1024]], **half)
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[3 / 1024]])
    assert adapted_linear(x, weight, None, a, b, 1.0).tolist() == [[1 + 8 / 1024]]
    rounded_first = x @ weight.t()
    assert (rounded_first + (x.float() @ a.t() @ b.t())).to(torch.bfloat16).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", {}), ("llama", {"attention_bias": True, "mlp_bias": True}), ("qwen", {}), ("gemma", {})],
    ids=["llama", "llama with biases", "qwen", "gemma"],
)
def test_the_sum_is_that_of_peft(family, changes):
    """Outputs, and gradients of the adapter and towards the embeddings, in float64."""
    policy = adapted(build_model(family, **changes)).double()
    for name, p in policy.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p)
    ours = copy.deepcopy(policy)
    assert sum_at_once(ours) == len(linear_layers(policy)) == 4 * 7

    def run(model):
        embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
        logits = model(inputs_embeds=embedded).logits
        logits.square().mean().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return {"logits": logits.detach(), "embedded": embedded.grad} | gradients

    expected, found = run(policy), run(ours)
    assert len(expected) == 2 + 2 * 4 * 7
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_bfloat16_keeps_a_small_adapter():
    """Of an adapter's part 2000 times smaller than the base's output all arrives; by peft's sum, a third."""
    torch.manual_seed(0)
    base = nn.Linear(256, 128, bias=False).to(torch.bfloat16)
    layer = adapted(nn.ModuleDict({"layer": base}), target_modules=["layer"]).base_model.model.layer
    layer.lora_B["default"].weight.data *= 4.5e-4
    x = torch.randn(512, 256).to(torch.bfloat16)
    a, b = (getattr(layer, name)["default"].weight.detach().double() for name in ("lora_A", "lora_B"))
    part = layer.scaling["default"] * x.double() @ a.t() @ b.t()
    without = (x.double() @ base.weight.double().t()).to(torch.bfloat16).double()
    assert 1800 < without.std() / part.std() < 2200

    def arrived(output):
        """The slope of what the adapter changed on what it says."""
        assert output.dtype == torch.bfloat16
        return (((output.double() - without) * part).sum() / part.square().sum()).item()

    peft_sum = layer(x)
    assert sum_at_once(layer) == 1
    assert arrived(layer(x)) == pytest.approx(1.0, abs=0.1)
    assert arrived(peft_sum) < 0.4


def test_gradients_in_bfloat16_are_those_of_float32():
    torch.manual_seed(0)
    policy = adapted(nn.ModuleDict({"layer": nn.Linear(64, 48)}), target_modules=["layer"])
    half = copy.deepcopy(policy)
    half.base_model.model.layer.base_layer.to(torch.bfloat16)
    assert sum_at_once(half) == 1
    x = torch.randn(200, 64).to(torch.bfloat16)
    for model, given in ((policy, x.float()), (half, x)):
        model.base_model.model.layer(given).float().square().mean().backward()
    for (name, p), (_, q) in zip(policy.named_parameters(), half.named_parameters(), strict=True):
        if p.grad is not None:
            assert q.grad.dtype == torch.float32
            assert torch.cosine_similarity(p.grad.flatten(), q.grad.flatten(), 0) > 0.999, name


def test_the_reference_is_the_base_to_the_bit():
    policy = adapted()
    sum_at_once(policy)
    with reference_mode(policy):
        found = policy(IDS).logits
    assert torch.equal(found, build_model()(IDS).logits)
    assert not torch.allclose(policy(IDS).logits, found, atol=1e-2)


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"lora_bias": True}, {"use_rslora": True}], ids=str)
def test_other_adapters_are_computed_as_peft_does(changes):
    """DoRA and biases of B by peft's own function; rank-stabilised scaling is only another factor."""
    base = build_model(attention_bias=True, mlp_bias=True)
    policy = adapted(base, **changes)
    expected = policy(IDS).logits
    sum_at_once(policy)
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_two_adapters_at_once():
    policy = adapted()
    policy.add_adapter("second", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    policy.base_model.set_adapter(["default", "second"])
    expected = policy(IDS).logits
    sum_at_once(policy)
    assert torch.equal(policy(IDS).logits, expected)
    policy.base_model.set_adapter("second")
    alone = policy(IDS).logits
    assert not torch.allclose(alone, expected, atol=1e-2)


def test_merged_and_unloaded():
    policy = adapted()
    sum_at_once(policy)
    expected = policy(IDS).logits
    policy.merge_adapter()
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    policy.unmerge_adapter()
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(policy.merge_and_unload()(IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_base_layer_that_is_watched_is_called():
    """Hooks on it (offloading, DeepSpeed, a user's own) and a replaced forward function still see every pass."""
    policy = adapted()
    sum_at_once(policy)
    layer = linear_layers(policy)[0]
    expected = policy(IDS).logits
    seen = []
    handle = layer.base_layer.register_forward_hook(lambda *_: seen.append("hook"))
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    handle.remove()
    own = layer.base_layer.forward
    layer.base_layer.forward = lambda x: seen.append("forward") or own(x)
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    assert seen == ["hook", "forward"]


def test_dropout_drops_in_training_only():
    policy = adapted(lora_dropout=0.5)
    expected = policy.eval()(IDS).logits
    sum_at_once(policy)
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    layer, x = linear_layers(policy)[0], torch.randn(1, 3, 32)
    policy.train()
    torch.manual_seed(3)
    found = layer(x)
    torch.manual_seed(3)
    dropped = layer.lora_dropout["default"](x)
    low = dropped @ layer.lora_A["default"].weight.t() @ layer.lora_B["default"].weight.t()
    torch.testing.assert_close(found, layer.base_layer(x) + layer.scaling["default"] * low)


def test_trained_and_loaded_policies_sum_at_once(tokenizer, tmp_path):
    """What is trained is what is scored afterwards, in the run and from its folder."""
    base = LoadedModel(build_model().to(torch.bfloat16), tokenizer, "toy", "toy")
    policy = add_adapter(base, ModelConfig(lora_r=4), seed=1)
    for layer in linear_layers(policy):
        nn.init.normal_(layer.lora_B["default"].weight, std=0.05)
    policy.save_pretrained(tmp_path)
    again = LoadedModel(build_model().to(torch.bfloat16), tokenizer, "toy", "toy")
    loaded = load_policy(again, tmp_path)
    assert all("forward" in vars(layer) for model in (policy, loaded) for layer in linear_layers(model))
    assert torch.equal(loaded(IDS).logits, policy(IDS).logits)
