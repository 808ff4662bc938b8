"""The reference and its cache: computed once, shared by methods, never half believed."""

import pytest
import torch

from conftest import build_model, build_tokenizer, make_pairs
from innerpo.data.batching.batch import make_batch
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base, reference_mode
from innerpo.model.forward.outputs import StateRequest, sequence_outputs
from innerpo.model.reference import compute_reference

STATES = StateRequest((1, 3), "mean", token_states=True)


@pytest.fixture
def run(toy, items, tmp_path):
    def compute(request=STATES, base=toy, things=items, layout="one_row", **options):
        options = {"batch_size": 4, "cache_dir": tmp_path, "what": "toy"} | options
        return compute_reference(base, things, layout, request, **options)

    return compute


def test_equals_a_plain_pass_in_the_order_of_the_items(run, toy, items):
    found = run()
    for selected in ([0, 1, 2], [7, 3], [11]):
        batch = make_batch([items[i] for i in selected], "one_row", 0)
        with torch.no_grad():
            expected = sequence_outputs(toy.model, batch, STATES)
        got = found.select(selected)
        torch.testing.assert_close(got.logps, expected.logps, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.pooled, expected.pooled, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.token_states, expected.token_states, atol=1e-5, rtol=1e-5)
        assert torch.equal(got.n_tokens, expected.n_tokens)


def test_token_spread_is_the_variance_of_token_states(run):
    found = run()
    u = found.token_states.double()
    expected = (u - u.mean(0)).square().sum(-1).mean(0)
    torch.testing.assert_close(found.token_spread.double(), expected, rtol=1e-5, atol=1e-5)


def test_second_run_computes_nothing(run, toy):
    first = run()
    assert first.computed

    def forbidden(*args, **kwargs):
        raise AssertionError("the model was run")

    toy.model.forward = forbidden
    second = run()
    assert not second.computed
    assert torch.equal(first.logps, second.logps)
    assert torch.equal(first.token_states, second.token_states)


def test_dpo_reuses_what_innerpo_computed(run, toy):
    run()
    toy.model.forward = None
    dpo = run(request=None)
    assert not dpo.computed
    assert dpo.pooled is None


def test_other_layers_pooling_data_weights_or_layout_are_computed_anew(run, toy, items):
    run()
    assert run(request=StateRequest((2,), "mean")).computed
    assert run(request=StateRequest((1, 3), "last")).computed
    assert run(things=items[:-1]).computed
    assert run(layout="concatenated").computed
    assert run(base=Base(toy.model, toy.tokenizer, "toy", "other-weights")).computed


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "garbage"])
def test_corrupt_file_is_named(run, toy, tmp_path, damage):
    toy.memory.limit_bytes = 0  # nothing is remembered: each run reads the files
    run()
    for path in (tmp_path / "reference").rglob("*.safetensors"):
        whole = path.read_bytes()
        changed = {
            "truncate": whole[:-10],
            "flip": whole[:-1] + bytes([whole[-1] ^ 1]),
            "empty": b"",
            "garbage": b"not a tensor file",
        }[damage]
        path.write_bytes(changed)
        with pytest.raises(UserError, match=rf"cache file .*{path.name} is corrupt.*delete it"):
            run()
        path.write_bytes(whole)
    assert not run().computed


def test_interrupted_pass_leaves_no_file(run, toy, tmp_path):
    calls = []
    forward = toy.model.forward

    def stops(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    toy.model.forward = stops
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_token_states_above_the_limit_are_not_kept(run, caplog):
    caplog.set_level("INFO")
    found = run(token_limit_bytes=100.0)
    assert found.token_states is None
    assert found.token_spread is not None
    assert "not kept" in caplog.text


def test_reference_mode_is_the_base_model_whatever_the_adapter(items):
    from innerpo.config.model import ModelConfig

    base = Base(build_model().requires_grad_(False), build_tokenizer(), "toy", "toy")
    batch = make_batch(items[:2], "one_row", 0)
    with torch.no_grad():
        before = sequence_outputs(base.model, batch).logps
    policy = add_adapter(base, ModelConfig(lora_r=4), seed=1)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            p.data.normal_()
    policy.train()
    changed = sequence_outputs(policy, batch).logps
    assert not torch.allclose(changed, before, atol=1e-2)
    with reference_mode(policy):
        inside = sequence_outputs(policy, batch).logps
    assert torch.equal(inside, before)
    assert not inside.requires_grad
    assert policy.training


def test_tokens_are_part_of_the_key(run, tokenizer):
    """Another limit cuts other tokens: another reference."""
    run()
    cut = PairTokenizer(tokenizer, 5, 64).training_items(make_pairs())
    assert run(things=cut).computed
