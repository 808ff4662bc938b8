"""Directions, scales and layer weights: against the slow leave-one-out loop, and on data whose answer is known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from innerpo.config import MethodConfig
from innerpo.errors import UserError
from innerpo.methods.directions import estimate_directions
from innerpo.methods.records import unit

SPREAD = torch.ones(2)


def differences(seed, n=7, offset=0.5):
    return torch.randn(2, n, 4, generator=torch.Generator().manual_seed(seed)) + offset


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_leave_one_out_is_exact(seed):
    """The closed form equals refitting the mean without each pair in turn."""
    d = differences(seed)
    found = estimate_directions(d, SPREAD, MethodConfig(), seed=0)
    n = d.shape[1]
    along = torch.stack(
        [(d[:, i] * unit(d[:, [j for j in range(n) if j != i]].mean(1))).sum(-1) for i in range(n)], dim=1
    )
    torch.testing.assert_close(found.scale, along.std(1), rtol=1e-4, atol=1e-5)
    accuracy = (along > 0).float().mean(1)
    torch.testing.assert_close(found.accuracy, accuracy)
    above = (accuracy - 0.5).clamp(min=0)
    expected = above / above.sum() if above.sum() > 0 else torch.full((2,), 0.5)
    torch.testing.assert_close(found.layer_weights, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("direction", ["shared", "pair", "mix", "random"])
def test_directions_are_unit_and_weights_sum_to_one(direction):
    d = differences(1)
    found = estimate_directions(d, SPREAD, MethodConfig(direction=direction), seed=5)
    torch.testing.assert_close(found.w.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(found.of_pairs(d).norm(dim=-1), torch.ones(2, 7))
    assert found.layer_weights.sum().item() == pytest.approx(1.0)


def test_each_kind_of_direction():
    d = differences(2)
    shared, pair, mix = (
        estimate_directions(d, SPREAD, MethodConfig(direction=k, mix=0.25), seed=0).of_pairs(d)
        for k in ("shared", "pair", "mix")
    )
    torch.testing.assert_close(shared, unit(d.mean(1))[:, None].expand_as(d))
    torch.testing.assert_close(pair, unit(d))
    torch.testing.assert_close(mix, unit(0.75 * shared + 0.25 * unit(d)))


def test_random_direction_is_seeded_and_ignores_the_data():
    a, b = (estimate_directions(differences(s), SPREAD, MethodConfig(direction="random"), seed=3) for s in (1, 2))
    c = estimate_directions(differences(1), SPREAD, MethodConfig(direction="random"), seed=4)
    assert torch.equal(a.w, b.w)
    assert not torch.allclose(a.w, c.w)


def test_weights_follow_the_layer_that_knows():
    """Layer 0 is pure noise around 0, layer 1 separates every pair: all the weight goes to layer 1."""
    d = differences(3, n=40, offset=0.0)
    d[0, 0::2], d[1] = -d[0, 1::2], differences(4, n=40, offset=4.0)[1]  # layer 0 cancels exactly
    found = estimate_directions(d, SPREAD, MethodConfig(), seed=0)
    assert found.accuracy[1] == 1.0
    assert found.layer_weights[1] > 0.95
    uniform = estimate_directions(d, SPREAD, MethodConfig(layer_weights="uniform"), seed=0)
    assert uniform.layer_weights.tolist() == [0.5, 0.5]


def test_no_layer_better_than_chance_means_uniform():
    half = differences(5, n=4, offset=0.0)
    d = torch.cat([half, -half], dim=1)
    found = estimate_directions(d, SPREAD, MethodConfig(), seed=0)
    assert (found.accuracy <= 0.5).all()
    assert found.layer_weights.tolist() == [0.5, 0.5]


def test_a_pair_does_not_vouch_for_itself():
    """Orthogonal differences: the plain mean agrees with every pair, the mean of the others with none."""
    d = torch.eye(4)[None].repeat(2, 1, 1)
    assert ((d * unit(d.mean(1))[:, None]).sum(-1) > 0).all()
    assert estimate_directions(d, SPREAD, MethodConfig(), seed=0).accuracy.tolist() == [0.5, 0.5]  # ties count one half


def test_shuffled_labels_leave_chance():
    d = differences(6, n=400, offset=1.0)
    signs = torch.randint(0, 2, (400, 1), generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert (estimate_directions(d, SPREAD, MethodConfig(), seed=0).accuracy > 0.9).all()
    assert ((estimate_directions(d * signs, SPREAD, MethodConfig(), seed=0).accuracy - 0.5).abs() < 0.1).all()


def test_identical_differences_do_not_divide_by_zero():
    found = estimate_directions(torch.ones(2, 5, 4), SPREAD, MethodConfig(), seed=0)
    assert (found.scale > 0).all()


def test_one_pair_is_too_few():
    with pytest.raises(UserError, match="at least 2 training pairs, got 1"):
        estimate_directions(torch.ones(2, 1, 4), SPREAD, MethodConfig(), seed=0)
