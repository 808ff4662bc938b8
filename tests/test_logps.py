"""The chunked LM head: equal to log-softmax in values and gradients, small in memory, used only where it may be."""

import pytest
import torch
from torch import nn

from conftest import build_model
from innerpo.data.batching.batch import make_batch
from innerpo.model.forward import logps
from innerpo.model.forward.logps import head_on_completions, target_log_probs, token_log_probs
from innerpo.model.forward.outputs import sequence_outputs


def head_and_states(bias, dtype=torch.float64, tokens=11, hidden=6, vocab=23):
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(hidden, vocab, bias=bias, dtype=dtype).requires_grad_(False)
    head.weight.copy_(torch.randn(vocab, hidden, generator=generator, dtype=dtype))
    states = torch.randn(tokens, hidden, generator=generator, dtype=dtype, requires_grad=True)
    return head, states, torch.randint(vocab, (tokens,), generator=generator)


def test_by_hand():
    """Two words, W = [[0], [ln 3]], h = 1: p = (1/4, 3/4); d log p(1) / dh = (1 - 3/4) ln 3."""
    head = nn.Linear(1, 2, bias=False).requires_grad_(False)
    head.weight.copy_(torch.tensor([[1.0], [3.0]]).log())
    h = torch.ones(1, 1, requires_grad=True)
    found = target_log_probs(h, head, torch.tensor([1]))
    found.sum().backward()
    torch.testing.assert_close(found.exp(), torch.tensor([0.75]))
    torch.testing.assert_close(h.grad, torch.tensor([[0.25]]) * torch.log(torch.tensor(3.0)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
def test_chunks_equal_the_plain_form(bias, chunk):
    head, states, targets = head_and_states(bias)
    weights = torch.linspace(-1.0, 2.0, len(targets))
    found = target_log_probs(states, head, targets, chunk)
    (gradient,) = torch.autograd.grad((found * weights).sum(), states)
    plain = torch.log_softmax(head(states), 1).gather(1, targets[:, None])[:, 0]
    (expected,) = torch.autograd.grad((plain * weights).sum(), states)
    torch.testing.assert_close(found.double(), plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_float32_log_probs(dtype):
    head, states, targets = head_and_states(False, dtype)
    found = target_log_probs(states, head, targets, 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, token_log_probs(head(states), targets))
    (gradient,) = torch.autograd.grad(found.sum(), states)
    (expected,) = torch.autograd.grad(token_log_probs(head(states), targets).sum(), states)
    torch.testing.assert_close(gradient, expected, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_gradients_of_tokens_that_the_model_is_sure_of(dtype, limit):
    """p = .996 and more: what is left of onehot - p must not be lost by rounding p."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 16, generator=generator, dtype=torch.float64).to(dtype)
    head = nn.Linear(16, 50, bias=False, dtype=dtype).requires_grad_(False)
    head.weight.copy_(weight)
    targets = torch.randint(50, (64,), generator=generator)
    states = (1.2 * weight[targets]).requires_grad_()
    (found,) = torch.autograd.grad(target_log_probs(states, head, targets, 16).sum(), states)
    exact = states.detach().double().requires_grad_()
    logps = torch.log_softmax(exact @ weight.double().T, 1).gather(1, targets[:, None])
    (expected,) = torch.autograd.grad(logps.sum(), exact)
    assert logps.exp().median() > 0.99
    assert (found.double() - expected).norm() / expected.norm() < limit


def test_neither_logits_nor_probabilities_are_kept():
    """What autograd keeps is one vector of the hidden size a token, whatever the vocabulary."""
    head, states, targets = head_and_states(False, torch.float32, tokens=40, hidden=8, vocab=1000)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        target_log_probs(states, head, targets, 16)
    assert sum(kept) == 40 * 8
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        target_log_probs(states, head, targets, 16)
    assert sum(kept) == 40 * 8


class Capped(nn.Module):
    """A model that squashes its logits after the head, as Gemma 2 does."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, **inputs):
        output = self.inner(**inputs)
        output.logits = torch.tanh(output.logits / 3.0) * 3.0
        return output

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)


@pytest.mark.parametrize("capped", [False, True])
def test_logits_that_a_model_changes_are_not_bypassed(items, capped, monkeypatch):
    model = build_model().requires_grad_(False)
    model = Capped(model) if capped else model
    used = []
    chunked = logps.target_log_probs
    monkeypatch.setattr(logps, "target_log_probs", lambda *args: used.append(1) or chunked(*args))
    batch = make_batch(items[:3], "concatenated", 0)
    first = sequence_outputs(model, batch)  # finds out what the model does with its logits
    assert not used
    found = sequence_outputs(model, batch)
    assert bool(used) == (not capped)
    torch.testing.assert_close(first.logps, found.logps, rtol=1e-4, atol=1e-4)
    logits = model(input_ids=batch.input_ids, attention_mask=(batch.segments >= 0).long()).logits
    tokens = token_log_probs(logits.flatten(0, 1)[batch.predictor], batch.targets)
    expected = torch.zeros(batch.n_sequences).index_add(0, batch.sequence, tokens)
    torch.testing.assert_close(found.logps, expected, rtol=1e-4, atol=1e-4)


def test_a_trained_head_gets_its_gradient(items):
    """Full fine-tuning: the head's own weights learn, so logits are made as usual."""
    model = build_model().requires_grad_(True)
    sequence_outputs(model, make_batch(items[:2], "one_row", 0)).logps.sum().backward()
    assert model.get_output_embeddings().weight.grad.abs().sum() > 0


def test_the_head_is_left_as_it_was(items):
    model = build_model().requires_grad_(False)
    batch = make_batch(items[:2], "one_row", 0)
    head = model.get_output_embeddings()
    with pytest.raises(RuntimeError, match="stop"), head_on_completions(model, batch):
        raise RuntimeError("stop")
    assert "forward" not in head.__dict__
    assert head(torch.zeros(1, 1, 32)).shape == (1, 1, 320)

    def instead(h):
        return h

    head.forward = instead
    with head_on_completions(model, batch):
        assert head.forward is not instead
    assert head.forward is instead
