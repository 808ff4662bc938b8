"""Gradient methods: against dense algebra, equal to DPO at kappa = 1, under the Trainer's order of events."""

import copy
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from torch import nn

from conftest import build_model, build_tokenizer, make_pairs
from innerpo.config.method import MethodConfig, default_method
from innerpo.config.model import ModelConfig
from innerpo.data.batching.batch import make_batch
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError
from innerpo.methods.gradients.edit import GradientEdit, adapted_modules, check_projectable, project
from innerpo.methods.gradients.fit import fit_gradients, mean_differences
from innerpo.methods.gradients.projbp import ProjBp
from innerpo.methods.gradients.projgrad import ProjGrad
from innerpo.methods.method import build_method
from innerpo.methods.records import unit
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base
from innerpo.model.forward.blocks import decoder_blocks
from test_adapter_kinds import WEIGHTS
from test_training import far, same_bits, train

W = unit(torch.tensor([3.0, 0.0, 4.0]))


class Tiny(nn.Module):
    """One block of one linear layer, in the shape of a model."""

    class Config:
        num_hidden_layers = 1

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.config = Tiny.Config()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(2, 3))])

    def forward(self, x):
        return self.layers[0](x)


def dense(kappa):
    """The projector as a matrix."""
    return torch.outer(W, W) + kappa * (torch.eye(3) - torch.outer(W, W))


def gradients(edit, inputs):
    model = Tiny()
    with edit.installed(model):
        for x in inputs:
            model(x).pow(3).sum().backward()
    edit.after_backward(model)
    linear = model.layers[0][0]
    return linear.weight.grad, linear.bias.grad


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("kind", [ProjGrad, ProjBp])
def test_a_linear_layer_by_hand(kind, kappa):
    """One layer: both methods give P (dL/dy) x^T, P written out, summed over two accumulated batches."""
    g = torch.Generator().manual_seed(1)
    inputs = [torch.randn(4, 2, generator=g), torch.randn(3, 2, generator=g)]
    plain_weight, plain_bias = gradients(GradientEdit({}, 1.0), inputs)
    weight, bias = gradients(kind({(0, "0"): W}, kappa), inputs)
    torch.testing.assert_close(weight, dense(kappa) @ plain_weight)
    torch.testing.assert_close(bias, dense(kappa) @ plain_bias)
    if kappa == 0.0:
        torch.testing.assert_close(weight, torch.outer(W, W @ plain_weight))  # rank one, along w
    if kappa == 1.0:
        assert torch.equal(weight, plain_weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kappa_one_returns_the_same_bits(dtype):
    g = torch.randn(7, 3).to(dtype)
    assert torch.equal(project(g, W, 1.0), g)


def test_the_projection_sees_no_sign_of_the_direction():
    g = torch.randn(7, 3)
    torch.testing.assert_close(project(g, -W, 0.2), project(g, W, 0.2))


def test_projbp_also_changes_what_flows_on():
    """Two layers: the gradient of the first has passed the second's projection; the first's weight gets both."""
    torch.manual_seed(0)
    model = Tiny()
    model.layers[0].append(nn.Linear(3, 3, bias=False))
    x = torch.randn(5, 2)
    v = unit(torch.tensor([1.0, 1.0, -1.0]))
    with ProjBp({(0, "0"): W, (0, "1"): v}, 0.0).installed(model):
        model(x).sum().backward()
    first, second = model.layers[0]
    at_output = torch.outer(v, v) @ torch.ones(3)
    torch.testing.assert_close(second.weight.grad, torch.outer(at_output, first(x).sum(0)))
    at_first = torch.outer(W, W) @ second.weight.T @ at_output
    torch.testing.assert_close(first.weight.grad, torch.outer(at_first, x.sum(0)))


def test_hooks_are_gone_after_training():
    model = Tiny()
    with ProjBp({(0, "0"): W}, 0.0).installed(model):
        assert model.layers[0][0]._forward_hooks
    assert not model.layers[0][0]._forward_hooks


@pytest.mark.parametrize("kind", [k for k in WEIGHTS if k != "LoRA"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_without_a_parameter_whose_rows_are_an_output_are_refused(kind):
    """Their frozen linear layers would be taken for the trained ones, and nothing would be projected."""
    policy = peft.get_peft_model(build_model(), copy.deepcopy(WEIGHTS[kind]))
    with pytest.raises(
        UserError, match=r"method\.gradient needs a plain LoRA adapter .* this adapter has [\w ]+; give"
    ):
        check_projectable(policy)
    check_projectable(peft.get_peft_model(build_model(), copy.deepcopy(WEIGHTS["LoRA"])))
    check_projectable(build_model())


# -- directions at modules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_directions_are_read_at_the_modules_own_output(layout):
    """Against a plain loop: each response run alone, the module's outputs averaged over its completion tokens."""
    model, tokenizer = build_model(), build_tokenizer()
    items = PairTokenizer(tokenizer, 64, 64).training_items(make_pairs(5))
    places = [(1, "self_attn.q_proj"), (2, "mlp.down_proj")]
    found = mean_differences(model, places, items, layout, 0, "mean", 2)
    read = {places[0]: decoder_blocks(model)[1].self_attn.q_proj, places[1]: decoder_blocks(model)[2]}
    expected = dict.fromkeys(places, 0.0)
    for item in items:
        for sign, response in zip((1, -1), item.responses, strict=True):
            for place, module in read.items():
                seen = []
                handle = module.register_forward_hook(lambda m, a, out, seen=seen: seen.append(out))
                with torch.no_grad():
                    model(torch.tensor([[*item.prompt, *response]]))
                handle.remove()
                u = seen[0][0, len(item.prompt) :]
                u = u / u.square().mean(-1, keepdim=True).sqrt()
                expected[place] = expected[place] + sign * u.mean(0).double() / len(items)
    for place in places:
        torch.testing.assert_close(found[place], expected[place], atol=1e-5, rtol=1e-4)
    assert make_batch(items, layout, 0).n_sequences == 10


def test_swapped_labels_negate_the_directions_which_changes_no_projection():
    model, tokenizer = build_model(), build_tokenizer()
    items = PairTokenizer(tokenizer, 64, 64).training_items(make_pairs(4))
    swapped = [type(i)(i.prompt, i.responses[::-1], i.characters[::-1], i.pairs, i.cluster) for i in items]
    place = (0, "mlp.up_proj")
    a, b = (mean_differences(model, [place], x, "concatenated", 0, "mean", 4)[place] for x in (items, swapped))
    torch.testing.assert_close(a, -b)
    assert a.norm() > 1e-3


# -- under the Trainer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["projgrad", "projbp"])
def test_kappa_one_is_dpo_to_the_bit(tmp_path, name):
    dpo, _, _ = train(tmp_path / "a", "dpo")
    same, _, _ = train(tmp_path / "b", name, method={"kappa": 1.0})
    other, _, _ = train(tmp_path / "c", name, method={"kappa": 0.0})
    assert same_bits(dpo, same)
    assert far(other, dpo) > 1e-2


@pytest.mark.parametrize("name", ["projgrad", "projbp"])
def test_accumulation_and_checkpointing_change_nothing(tmp_path, name):
    whole, _, a = train(tmp_path / "a", name)
    accumulated = {"data": {"batch_size": 4}, "training": {"gradient_accumulation": 2}}
    split, _, b = train(tmp_path / "b", name, **accumulated)
    recomputed, _, _ = train(tmp_path / "c", name, training={"gradient_checkpointing": True})
    assert a["steps"] == b["steps"] == 3
    assert far(split, whole) < 1e-4
    assert far(recomputed, whole) < 1e-4


def test_projgrad_moves_b_along_the_direction_only(tmp_path):
    """kappa = 0 with plain SGD: what B gained lies along w (Adam rescales rows, and does not keep this)."""
    changes = {"method": {"kappa": 0.0}, "training": {"optim": "sgd", "lr": 1.0}}
    weights, _, _ = train(tmp_path / "a", "projgrad", **changes)
    plain, _, _ = train(tmp_path / "b", "dpo", training=changes["training"])

    def second_singular_value(found):
        values = [torch.linalg.svdvals(p) for n, p in found.items() if "lora_B" in n and p.abs().max() > 0]
        assert values
        return max((s[1] / s[0]).item() for s in values)

    assert second_singular_value(weights) < 1e-4
    assert second_singular_value(plain) > 1e-2


@pytest.mark.parametrize("name", ["projgrad", "projbp"])
def test_full_fine_tuning_and_random_directions(tmp_path, name):
    changes = {"model": {"lora_r": 0}, "training": {"lr": 1e-3}}
    whole, log, _ = train(tmp_path / "a", name, **changes)
    control, _, _ = train(tmp_path / "b", name, method={"direction": "random"}, **changes)
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0]
    assert far(control, whole) > 1e-4


def test_random_directions_are_seeded(tmp_path):
    same, again, other = (
        train(tmp_path / k, "projgrad", method={"direction": "random", "kappa": kappa})[0]
        for k, kappa in (("a", 0.1), ("b", 0.1), ("c", 1.0))
    )
    assert same_bits(same, again)
    assert not same_bits(same, other)


def test_sharded_gradients_are_refused(tmp_path):
    with pytest.raises(UserError, match="projgrad needs whole gradients; FSDP and DeepSpeed"):
        train(tmp_path, "projgrad", training={"fsdp": "full_shard"})


def test_only_what_is_adapted_is_projected():
    from peft import LoraConfig, get_peft_model

    policy = get_peft_model(build_model(), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    assert {name for _, name in adapted_modules(policy)} == {"self_attn.q_proj", "mlp.down_proj"}
    assert len(adapted_modules(policy)) == 8


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"gradient": "projgard"}, "unknown method.gradient 'projgard'; did you mean 'projgrad'"),
        ({"gradient": "projgrad", "direction": "pair"}, "projgrad needs method.direction shared or random, not pair"),
        ({"gradient": "projbp", "remove": ("length",)}, "not to projbp"),
    ],
)
def test_what_gradient_methods_cannot_do_is_said(values, says):
    with pytest.raises(UserError, match=says):
        MethodConfig(**values)


def test_random_directions_are_shared_as_measured_ones_are():
    """Modules that write into the residual stream of one block have one direction, in the control as in the method."""
    base = Base(build_model(), build_tokenizer(), "toy", "toy")
    policy = add_adapter(base, ModelConfig(lora_r=2), seed=1)
    method = build_method(replace(default_method("projgrad"), direction="random"), ())
    fitted = fit_gradients(method, policy, base, [], "one_row", batch_size=2, cache_dir=Path("none"), seed=3)
    found = fitted.gradient_edit.directions
    assert torch.equal(found[1, "self_attn.o_proj"], found[1, "mlp.down_proj"])
    for other in ((1, "self_attn.q_proj"), (2, "mlp.down_proj")):
        assert not torch.equal(found[other], found[1, "mlp.down_proj"])
