"""An adapted layer as one sum: hand-worked values, parity with peft, and what bfloat16 does to a small adapter."""

import copy
import json
import pickle
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from benchmarks import adapters
from conftest import build_model
from innerpo.config.model import ModelConfig
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base, reference_mode
from innerpo.model.numerics import hardware
from innerpo.model.numerics.fused_lora import FusedLoraLinear, fuse_lora, fused_lora_linear, unfuse_lora
from innerpo.model.numerics.hardware import compiled_blocks
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
    assert fused_lora_linear(x, weight, None, a, b, 2.0).tolist() == [[-1.0, 2.0, -1.0]]
    assert fused_lora_linear(x, weight, torch.tensor([1.0, 1.0, 0.5]), a, b, 2.0).tolist() == [[0.0, 3.0, -0.5]]
    # with dropout the adapter sees something else: [2, 0] A^T = [2], 2 * 2 B^T = [4, 0, 8]
    seen = torch.tensor([[2.0, 0.0]])
    assert fused_lora_linear(x, weight, None, a, b, 2.0, seen).tolist() == [[5.0, 2.0, 11.0]]


def test_bfloat16_is_rounded_after_the_sum():
    """Near 1 bfloat16 has steps of 2^-7 = 8/1024: 1 + 3/1024 and 3/1024 more are 1 + 6/1024, nearest to 1 + 8/1024."""
    half = {"dtype": torch.bfloat16}
    x, weight = torch.tensor([[1.0, 1.0]], **half), torch.tensor([[1.0, 3 / 1024]], **half)
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[3 / 1024]])
    assert fused_lora_linear(x, weight, None, a, b, 1.0).tolist() == [[1 + 8 / 1024]]
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
    assert fuse_lora(ours) == len(linear_layers(policy)) == 4 * 7

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
        """Regression slope of the change in the adapted layer's output on the adapter's own output."""
        assert output.dtype == torch.bfloat16
        return (((output.double() - without) * part).sum() / part.square().sum()).item()

    peft_sum = layer(x)
    assert fuse_lora(layer) == 1
    assert arrived(layer(x)) == pytest.approx(1.0, abs=0.1)
    assert arrived(peft_sum) < 0.4


def test_gradients_in_bfloat16_are_those_of_float32():
    torch.manual_seed(0)
    policy = adapted(nn.ModuleDict({"layer": nn.Linear(64, 48)}), target_modules=["layer"])
    half = copy.deepcopy(policy)
    half.base_model.model.layer.base_layer.to(torch.bfloat16)
    assert fuse_lora(half) == 1
    x = torch.randn(200, 64).to(torch.bfloat16)
    for model, given in ((policy, x.float()), (half, x)):
        model.base_model.model.layer(given).float().square().mean().backward()
    for (name, p), (_, q) in zip(policy.named_parameters(), half.named_parameters(), strict=True):
        if p.grad is not None:
            assert q.grad.dtype == torch.float32
            assert torch.cosine_similarity(p.grad.flatten(), q.grad.flatten(), 0) > 0.999, name


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [64, 576, 1536])
def test_a_fresh_adapter_changes_no_bit_in_float32(width, bias):
    torch.manual_seed(0)
    x, weight, a = torch.randn(3, 5, width), torch.randn(48, width), torch.randn(4, width)
    b, added = torch.zeros(48, 4), torch.randn(48) if bias else None
    found = fused_lora_linear(x, weight, added, a, b, 2.0)
    assert torch.equal(found, nn.functional.linear(x, weight, added))


def test_a_large_bias_does_not_round_the_adapter_away():
    """Beside a bias of 100 bfloat16 has steps of 1/2. On average over many x the adapter's 0.05 still arrives."""
    torch.manual_seed(0)
    x = torch.cat([torch.ones(20000, 1), torch.randn(20000, 63)], 1).to(torch.bfloat16)
    weight = torch.cat([torch.zeros(1, 1), torch.randn(1, 63) / 8], 1).to(torch.bfloat16)
    a, b = torch.eye(1, 64), torch.tensor([[0.05]])
    bias = torch.tensor([100.0], dtype=torch.bfloat16)
    changed = fused_lora_linear(x, weight, bias, a, b, 1.0).double() - nn.functional.linear(x, weight, bias).double()
    assert changed.mean().item() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_gradients_in_float16_are_not_lost(size):
    """Multiplied in float32: with a small B and a small gradient from above (by size) A's would be 0 in float16."""
    torch.manual_seed(0)
    x, weight = torch.randn(40, 16).half(), torch.randn(12, 16).half()
    above = 1e-4 * torch.randn(40, 12).half()
    leaves = [(torch.randn(3, 16)).requires_grad_(), (size * 1e-3 * torch.randn(12, 3)).requires_grad_()]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    fused_lora_linear(x, weight, None, *leaves, 1.0).backward(above)
    fused_lora_linear(x.double(), weight.double(), None, *exact, 1.0).backward(above.double())
    for found, leaf in zip(leaves, exact, strict=True):
        assert (found.grad - leaf.grad).norm() < 1e-3 * leaf.grad.norm()


@pytest.mark.parametrize("bias", [False, True])
def test_types_under_autocast_are_those_of_peft(bias):
    policy = adapted(build_model(attention_bias=bias, mlp_bias=bias))
    layer, x = linear_layers(policy)[0], torch.randn(1, 3, 32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        fuse_lora(policy)
        found = layer(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_the_reference_is_the_base_to_the_bit():
    policy = adapted()
    fuse_lora(policy)
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
    fuse_lora(policy)
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_two_adapters_at_once():
    policy = adapted()
    policy.add_adapter("second", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    policy.base_model.set_adapter(["default", "second"])
    expected = policy(IDS).logits
    fuse_lora(policy)
    assert torch.equal(policy(IDS).logits, expected)
    policy.base_model.set_adapter("second")
    alone = policy(IDS).logits
    assert not torch.allclose(alone, expected, atol=1e-2)


def test_merged_and_unloaded():
    policy = adapted()
    fuse_lora(policy)
    expected = policy(IDS).logits
    policy.merge_adapter()
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    policy.unmerge_adapter()
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(policy.merge_and_unload()(IDS).logits, expected, rtol=1e-4, atol=1e-4)


class Wrapped(nn.Module):
    """A part in a wrapper that must be called for its weights to be there, as FSDP1's is."""

    def __init__(self, part, seen):
        super().__init__()
        self.part, self.seen = part, seen

    @property
    def weight(self):
        return self.part.weight

    def forward(self, x):
        self.seen.append("wrapper")
        return self.part(x)


@pytest.mark.parametrize("part", ["base_layer", "lora_A", "lora_B"])
def test_a_part_that_wants_to_be_called_is_called(part):
    """Its hooks (offloading, DeepSpeed, a user's own), a replaced forward function or a wrapper see every pass."""
    policy = adapted()
    fuse_lora(policy)
    layer = linear_layers(policy)[0]
    at = getattr(layer, part)
    module = at if part == "base_layer" else at["default"]
    expected = policy(IDS).logits
    seen = []
    handle = module.register_forward_hook(lambda *_: seen.append("hook"))
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    handle.remove()
    own = module.forward
    module.forward = lambda x: seen.append("forward") or own(x)
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    del module.forward
    if part == "base_layer":
        layer.base_layer = Wrapped(module, seen)
    else:
        at["default"] = Wrapped(module, seen)
    torch.testing.assert_close(policy(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    assert seen == ["hook", "forward", "wrapper"]


def test_a_forward_function_that_was_put_on_a_layer_stays():
    """As accelerate's, which brings offloaded weights first."""
    policy, seen = adapted(), []
    layer = linear_layers(policy)[0]
    own = layer.forward
    layer.forward = lambda x: seen.append(1) or own(x)
    fuse_lora(policy)
    policy(IDS)
    assert seen == [1]


def test_copied_pickled_undone():
    policy = adapted()
    plain = policy(IDS).logits
    assert fuse_lora(policy) == fuse_lora(policy) == 28
    expected = policy(IDS).logits
    again = pickle.loads(pickle.dumps(policy))
    for other in (copy.deepcopy(policy), again):
        linear_layers(other)[0].lora_B["default"].weight.data.zero_()
        assert {type(layer) for layer in linear_layers(other)} == {FusedLoraLinear}
        assert not torch.allclose(other(IDS).logits, expected, atol=1e-3)
        assert torch.equal(policy(IDS).logits, expected)
    unfuse_lora(policy)
    assert torch.equal(policy(IDS).logits, plain)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # dynamo looks
@pytest.mark.slow
def test_compiled(monkeypatch, traceable):
    """As `compiled_blocks` does, but by a backend that needs no C++ compiler."""
    policy = adapted(build_model(num_hidden_layers=2))
    fuse_lora(policy)
    expected = policy(IDS).logits
    expected.square().mean().backward()
    gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    monkeypatch.setattr(hardware.torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    with compiled_blocks(policy):
        found = policy(IDS).logits
        found.square().mean().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, p in policy.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, gradients[name], rtol=1e-3, atol=1e-5)


def test_dropout_drops_in_training_only():
    policy = adapted(lora_dropout=0.5)
    expected = policy.eval()(IDS).logits
    fuse_lora(policy)
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
    base = Base(build_model().to(torch.bfloat16), tokenizer, "toy", "toy")
    policy = add_adapter(base, ModelConfig(lora_r=4), seed=1)
    for layer in linear_layers(policy):
        nn.init.normal_(layer.lora_B["default"].weight, std=0.05)
    policy.save_pretrained(tmp_path)
    again = Base(build_model().to(torch.bfloat16), tokenizer, "toy", "toy")
    loaded = load_policy(again, tmp_path)
    assert {type(layer) for model in (policy, loaded) for layer in linear_layers(model)} == {FusedLoraLinear}
    assert torch.equal(loaded(IDS).logits, policy(IDS).logits)


def test_what_is_left_of_an_adapter_in_half_precision(toy_folder, pairs_file, tmp_path):
    """The benchmark runs; the toy's base alone is so far off in bfloat16 that only the gradients tell."""
    saved = tmp_path / "adapters.json"
    flags = [f"--model={toy_folder}", f"--dataset={pairs_file}", f"--cache-dir={tmp_path}", f"--save={saved}"]
    assert adapters.main([*flags, "--pairs=8", "--steps=2"]) == 0
    rows = {row["system"]: row for row in json.loads(saved.read_text())["workloads"][0]["rows"]}
    assert list(rows) == ["one sum", "peft", "merged"]
    assert rows["one sum"]["gradient_cosine"] > rows["peft"]["gradient_cosine"] > 0.5
    assert "gradient_cosine" not in rows["merged"]
    assert all(0 < row["margin_spread"] < 1 for row in rows.values())
    assert len({row["base_margin_spread"] for row in rows.values()}) == 1


def test_margins_and_gradients_are_compared_by_hand():
    exact = {"margins": torch.tensor([1.0, 2.0, 3.0]), "gradient": torch.tensor([3.0, 4.0])}
    found = {"margins": torch.tensor([2.0, 2.0, 5.0]), "gradient": torch.tensor([8.0, -6.0])}
    row = adapters.compared(found, exact)
    assert row == {"margin_mean": 1.0, "margin_spread": 1.0, "gradient_cosine": 0.0, "gradient_length": 2.0}
    assert adapters.main(["--steps=0"]) == 2
