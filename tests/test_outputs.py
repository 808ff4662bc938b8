"""One forward pass: against the plain model, between layouts, under checkpointing, padding and other prompts."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from conftest import build_model, make_pairs
from innerpo.data.batching.batch import make_batch
from innerpo.data.tokens import PairTokenizer, PromptItem
from innerpo.model.forward.logps import token_log_probs
from innerpo.model.forward.outputs import StateRequest, pool_weights, rms_normalise, sequence_outputs

ALL = StateRequest((0, 1, 2, 3), token_states=True)


def with_adapter(model, seed=3):
    """A LoRA adapter whose B is not zero, so that it changes outputs and all its gradients are non-zero."""
    torch.manual_seed(seed)
    policy = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return policy.eval()


def gradients(model, batch, request=ALL):
    model.zero_grad()
    out = sequence_outputs(model, batch, request)
    target = torch.linspace(-1.0, 1.0, out.pooled.numel()).reshape(out.pooled.shape)
    (out.logps.sum() / 10 + (out.pooled * target).sum() + out.token_states.square().sum() / 100).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_logps_are_those_of_the_plain_model(items):
    """Against log_softmax of the whole logits, one response at a time, nothing shared."""
    model = build_model()
    out = sequence_outputs(model, make_batch(items[:3], "one_row", 0))
    expected = []
    for item in items[:3]:
        for response in item.responses:
            ids = torch.tensor([[*item.prompt, *response]])
            logp = model(input_ids=ids).logits[0].log_softmax(-1)
            n = len(item.prompt)
            expected.append(sum(logp[n - 1 + t, token].item() for t, token in enumerate(response)))
    assert out.logps.tolist() == pytest.approx(expected, abs=1e-4)


def test_states_are_block_outputs_pooled_over_the_completion_only(items):
    """hidden_states[l + 1] is the output of block l; the last one that transformers returns is normed, so not used."""
    model = build_model()
    out = sequence_outputs(model, make_batch(items[:2], "one_row", 0), StateRequest((0, 2)))
    row = 0
    for item in items[:2]:
        for response in item.responses:
            ids = torch.tensor([[*item.prompt, *response]])
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
            for i, block in enumerate((0, 2)):
                h = hidden[block + 1][0, len(item.prompt) :]
                u = h / h.square().mean(-1, keepdim=True).sqrt()
                torch.testing.assert_close(out.pooled[i, row], u.mean(0), atol=1e-5, rtol=1e-4)
            row += 1


def test_layouts_agree_in_every_family(family, items):
    policy = with_adapter(build_model(family))
    batches = [make_batch(items, layout, 0) for layout in ("one_row", "concatenated")]
    one_row, concatenated = (sequence_outputs(policy, b, ALL) for b in batches)
    torch.testing.assert_close(one_row.logps, concatenated.logps, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(one_row.pooled, concatenated.pooled, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one_row.token_states, concatenated.token_states, atol=1e-4, rtol=1e-4)
    a, b = (gradients(policy, batch) for batch in batches)
    assert max(relative(a[n], b[n]) for n in b) < 1e-3


def test_sliding_window_is_shorter_than_the_rows(items):
    """Else the Gemma case above would not test the windowed mask."""
    config = build_model("gemma").config
    assert config.sliding_window < min(item.n_tokens for item in items)
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}


@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_eager_and_sdpa_agree(layout, items, family):
    model = build_model(family)
    sdpa = sequence_outputs(model, make_batch(items, layout, 0), ALL)
    model.set_attn_implementation("eager")
    eager = sequence_outputs(model, make_batch(items, layout, 0), ALL)
    torch.testing.assert_close(eager.logps, sdpa.logps, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(eager.pooled, sdpa.pooled, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_checkpointing_changes_no_gradient(layout, items, family):
    policy = with_adapter(build_model(family)).train()
    batch = make_batch(items[:4], layout, 0)
    plain = gradients(policy, batch)
    model = policy.base_model.model
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    assert any(getattr(m, "gradient_checkpointing", False) for m in policy.modules())
    checkpointed = gradients(policy, batch)
    assert max(relative(checkpointed[n], plain[n]) for n in plain) < 1e-5


def test_hooks_are_gone_afterwards(items):
    model = build_model()
    with torch.no_grad():
        sequence_outputs(model, make_batch(items[:2], "one_row", 0), ALL)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_without_gradient_gives_the_same(items):
    model, batch = with_adapter(build_model()), make_batch(items, "one_row", 0)
    with torch.no_grad():
        quiet = sequence_outputs(model, batch, ALL)
    loud = sequence_outputs(model, batch, ALL)
    assert torch.equal(quiet.logps, loud.logps)
    assert torch.equal(quiet.pooled, loud.pooled)
    assert torch.equal(quiet.token_states, loud.token_states)


@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_padding_changes_nothing(layout, items):
    """A long neighbour only adds padding to a short row."""
    model = build_model()
    short, long = sorted(items, key=lambda i: i.n_tokens)[:: len(items) - 1]
    alone = sequence_outputs(model, make_batch([short], layout, 0), ALL)
    padded = sequence_outputs(model, make_batch([short, long], layout, 7), ALL)
    torch.testing.assert_close(padded.logps[:2], alone.logps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded.pooled[:, :2], alone.pooled, atol=1e-5, rtol=1e-5)


def test_prompt_matters_but_only_through_attention(items, tokenizer):
    """Perturb the prompt: other states of the completion; and no prompt token is in the pool or the log-prob."""
    model, item = build_model(), items[0]
    other = PromptItem((9, *item.prompt[1:]), item.responses, item.characters, item.pairs, item.cluster)
    a, b = (sequence_outputs(model, make_batch([i], "one_row", 0), ALL) for i in (item, other))
    assert not torch.allclose(a.pooled, b.pooled)
    assert a.token_states.shape[1] == sum(len(r) for r in item.responses)
    batch = make_batch([item], "one_row", 0)
    assert (batch.segments.flatten()[batch.completion] > 0).all()


def test_other_response_does_not_matter(items):
    """In one row, the chosen response's outputs are the same whatever the rejected one says."""
    model, item = build_model(), items[0]
    other = PromptItem(item.prompt, (item.responses[0], (40, 41, 42, 43, 1)), (1, 1), item.pairs, item.cluster)
    a, b = (sequence_outputs(model, make_batch([i], "one_row", 0), ALL) for i in (item, other))
    torch.testing.assert_close(a.logps[0], b.logps[0], atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(a.pooled[:, 0], b.pooled[:, 0], atol=1e-5, rtol=1e-5)


def test_pool_weights():
    item = PromptItem((1,), ((5, 6, 7, 8), (5, 9)), (4, 2), ((0, 1, "a"),), "c")
    batch = make_batch([item], "one_row", 0)
    q, z, t = 0.25, 0.0, 1.0 / 3.0
    assert pool_weights(batch, "mean").tolist() == [[q, q, q, q, z, z], [z, z, z, z, 0.5, 0.5]]
    assert pool_weights(batch, "last").tolist() == [[z, z, z, 1.0, z, z], [z, z, z, z, z, 1.0]]
    first = pool_weights(batch, "first_divergence")
    torch.testing.assert_close(first, torch.tensor([[z, t, t, t, z, z], [z, z, z, z, z, 1.0]]))


def test_log_probs_in_float32_from_bfloat16():
    logits = torch.tensor([[0.0, 1.0], [3.0, 3.0]], dtype=torch.bfloat16)
    found = token_log_probs(logits, torch.tensor([1, 0]))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([-0.3132617, -0.6931472], abs=1e-6)


def test_rms_normalise_ignores_scale_and_survives_zero():
    h = torch.tensor([[3.0, 4.0], [30.0, 40.0], [0.0, 0.0]], requires_grad=True)
    u = rms_normalise(h)
    torch.testing.assert_close(u[0], torch.tensor([3.0, 4.0]) / 12.5**0.5)
    torch.testing.assert_close(u[0], u[1])
    u.sum().backward()
    assert torch.isfinite(h.grad).all()


def test_long_prompts_share_one_computation(tokenizer):
    """The point of one row: fewer cells than a row a response."""
    items = PairTokenizer(tokenizer, 64, 64).training_items(make_pairs(4))
    one_row, concatenated = (make_batch(items, layout, 0).input_ids.numel() for layout in ("one_row", "concatenated"))
    assert one_row < 0.75 * concatenated
