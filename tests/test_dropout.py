"""The base in training mode: dropout is off, whatever attribute holds it, and remaining randomness is refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import build_model
from families import Family
from innerpo.config.method import MethodConfig
from innerpo.config.model import ModelConfig
from innerpo.data.batching.batch import make_batch
from innerpo.errors import UserError
from innerpo.methods.method import build_method, fit_method
from innerpo.methods.records import PairOutputs
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base
from innerpo.model.dropout import switch_off_dropout
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.model.reference import compute_reference

OLD = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
NOISY = {
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48, "dropout": 0.3, "attention_dropout": 0.3, "layerdrop": 0.3},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 4, "attention_heads": 4, "dropout": 0.3, "layerdrop": 0.3}
    | {"activation_dropout": 0.3, "attention_dropout": 0.3},
    "biogpt": {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3, "activation_dropout": 0.3},
    "gpt_bigcode": OLD | {"attn_pdrop": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3},
}


@pytest.mark.parametrize("model_type", NOISY)
def test_step_one_starts_at_the_reference(model_type, tokenizer, items, tmp_path):
    """In training mode, with a fresh adapter: DPO's loss is log 2 for every pair, and drift is 0."""
    base = Base(Family(model_type, NOISY[model_type]).build(), tokenizer, model_type, model_type)
    method = build_method(replace(MethodConfig(name="innerpo"), layers="1,2"), (1, 2))
    reference = compute_reference(
        base, items, "one_row", method.request, batch_size=4, cache_dir=tmp_path, what="toy", token_limit_bytes=1e9
    )
    method = fit_method(method, reference, base.model, 1, "one_row", base.pad_id)
    policy = add_adapter(base, ModelConfig(lora_r=4), seed=1).train()
    batch = make_batch(items, "one_row", base.pad_id)
    policy_outputs = sequence_outputs(policy, batch, method.request)
    out = method.loss(
        PairOutputs.of(policy_outputs, batch, method.transform),
        PairOutputs.of(reference.select(range(len(items))), batch, method.transform),
    )
    torch.testing.assert_close(out.terms["output"], torch.full((len(items),), math.log(2)), atol=1e-5, rtol=0)
    assert float(out.terms["drift"].detach().abs().max()) < 1e-5


def test_the_model_is_left_as_it_was():
    model = build_model(attention_dropout=0.5)
    model.train()
    model.model.layers[1].eval()
    model.register_buffer("calls", torch.zeros(1))
    forward = model.forward

    def counting(*args, **kwargs):
        model.calls += 1
        return forward(*args, **kwargs)

    model.forward = counting
    modes = [m.training for m in model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    switch_off_dropout(model)
    assert torch.equal(torch.rand(3), expected)
    assert [m.training for m in model.modules()] == modes
    assert model.calls.item() == 0


class Hidden(nn.Module):
    """Dropout that no attribute controls."""

    def forward(self, x):
        return F.dropout(x, 0.1, self.training)


def test_dropout_that_cannot_be_switched_off_is_refused_by_name(tokenizer):
    model = build_model()
    model.model.layers[2].mlp.act_fn = Hidden()
    with pytest.raises(UserError, match=r"random in training mode .*modules: model\.layers\.2\.mlp\.act_fn\)"):
        Base(model, tokenizer)


def test_jitter_of_a_router_is_switched_off(tokenizer):
    model = Family("mixtral", {"num_local_experts": 4, "router_jitter_noise": 0.2}).build()
    base = Base(model, tokenizer)
    base.model.train()
    tokens = torch.arange(2, 12)[None]
    assert torch.equal(base.model(tokens).logits, base.model(tokens).logits)
