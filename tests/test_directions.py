"""Directions, scales and layer weights: against the slow leave-one-out loop, and on data whose answer is known."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_pairs, noisy_siblings
from innerpo.config.method import MethodConfig
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError
from innerpo.methods.directions.estimate import estimate_directions
from innerpo.methods.directions.lda import lda_directions
from innerpo.methods.directions.nuisance import nuisance_of, residuals
from innerpo.methods.method import build_method, fit_method
from innerpo.methods.records import unit
from innerpo.model.reference import compute_reference

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


@pytest.mark.parametrize("direction", ["shared", "pair", "mix", "lda", "random"])
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


@pytest.mark.parametrize("seed", range(5))
def test_the_random_control_differs_in_the_direction_alone(seed):
    """Layer 1 knows the labels: it has the weight, wherever chance has put the random vectors; so drift is the same."""
    d = torch.cat([differences(3, offset=0.3)[:1], differences(4, offset=4.0)[1:]])
    found = estimate_directions(d, SPREAD, MethodConfig(direction="random"), seed=seed)
    shared = estimate_directions(d, SPREAD, MethodConfig(), seed=seed)
    assert torch.equal(found.layer_weights, shared.layer_weights)
    assert not torch.equal(found.accuracy, shared.accuracy)
    assert not torch.equal(found.w, shared.w)
    uniform = estimate_directions(d, SPREAD, MethodConfig(direction="random", layer_weights="uniform"), seed=seed)
    assert uniform.layer_weights.tolist() == [0.5, 0.5]


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
    with pytest.raises(UserError, match="at least 2 prompts, got 1"):
        estimate_directions(torch.ones(2, 1, 4), SPREAD, MethodConfig(), seed=0)


# -- leaving out prompts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["shared", "mix", "lda"])
@pytest.mark.parametrize("remove", [(), ("length",), ("length", "logprob")], ids=len)
@given(seed=st.integers(0, 1000), n_prompts=st.integers(4, 7))
@settings(max_examples=5, deadline=None)
def test_leaving_out_a_prompt_equals_refitting_without_it(direction, remove, seed, n_prompts):
    """Scale and accuracy against a loop that fits again without each pair's prompt, at the same ridge."""
    g = torch.Generator().manual_seed(seed)
    clusters = torch.cat([torch.arange(n_prompts), torch.randint(n_prompts, (5,), generator=g)])
    clusters = clusters[torch.randperm(len(clusters), generator=g)]
    n = len(clusters)
    d = torch.randn(2, n, 4, generator=g, dtype=torch.float64) + 0.4
    z = torch.randn(n, len(remove), generator=g, dtype=torch.float64) + 0.5
    method = MethodConfig(direction=direction, remove=remove, mix=0.3)
    found = estimate_directions(d, SPREAD, method, 0, z if remove else None, clusters)

    def regression(layer, kept):
        design = torch.cat([torch.ones(n, 1, dtype=d.dtype), z], 1)[kept]
        coefficients = torch.linalg.lstsq(design, d[layer][kept]).solution
        return coefficients[0], d[layer][kept] - design @ coefficients

    for layer in range(2):
        error = regression(layer, torch.arange(n))[1]
        rho = method.lda_ridge * error.square().sum() / 4

        def fit(kept, layer=layer, rho=rho):
            mean, error = regression(layer, kept)
            if direction == "lda":
                mean = torch.linalg.inv(error.T @ error + rho * torch.eye(4)) @ mean
            return unit(mean)

        torch.testing.assert_close(found.w[layer].double(), fit(torch.arange(n)), atol=1e-5, rtol=1e-5)
        along = []
        for i in range(n):
            w = fit((clusters != clusters[i]).nonzero()[:, 0])
            w = unit(0.7 * w + 0.3 * unit(d[layer, i])) if direction == "mix" else w
            along.append(float(d[layer, i] @ w))
        assert found.scale[layer].item() == pytest.approx(torch.tensor(along).std().item(), rel=1e-4)
        assert found.accuracy[layer].item() == pytest.approx(sum(a > 0 for a in along) / n, abs=1e-6)


@pytest.mark.parametrize("direction", ["shared", "lda"])
@pytest.mark.parametrize("remove", [(), ("length",)], ids=len)
def test_siblings_do_not_vouch_for_each_other(direction, remove):
    """Pure noise with three negatives a prompt: chance, where leaving out the pair alone gives far more."""
    d, clusters = noisy_siblings(100, hidden=256)
    z = torch.randn(300, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) if remove else None
    method = MethodConfig(direction=direction, remove=remove)
    by_prompt, by_pair = (estimate_directions(d, SPREAD, method, 0, z, c).accuracy for c in (clusters, None))
    assert ((by_prompt - 0.5).abs() < 0.1).all(), by_prompt
    assert (by_pair > by_prompt + 0.15).all(), by_pair


def test_fitting_a_method_leaves_out_prompts(toy, tmp_path, tokenizer):
    """The prompts are those of the items, so that siblings change the scale."""
    items = PairTokenizer(tokenizer, 64, 64).training_items(make_pairs(12))
    method = build_method(MethodConfig(layers="1"), (1,))
    reference = compute_reference(toy, items, "one_row", method.request, batch_size=4, cache_dir=tmp_path, what="toy")
    joined = replace(reference, items=[replace(item, cluster=f"{i // 4}") for i, item in enumerate(items)])
    own, shared = (fit_method(method, r, toy.model, 1).directions for r in (reference, joined))
    assert torch.equal(own.w, shared.w)
    assert not torch.equal(own.scale, shared.scale)


def test_one_prompt_is_too_few():
    with pytest.raises(UserError, match="at least 2 prompts, got 1"):
        estimate_directions(torch.ones(2, 3, 4), SPREAD, MethodConfig(), 0, clusters=torch.zeros(3, dtype=torch.long))


def test_a_nuisance_that_varies_within_one_prompt_only():
    """Without that prompt the regression does not determine its slope: the direction there is still the plain one."""
    d = differences(9, n=6).double()
    z = torch.eye(6, 1, dtype=torch.float64)
    rest, without = residuals(d, z, torch.arange(6))
    _, left = lda_directions(d, 0.2, torch.arange(6), z)
    torch.testing.assert_close(without[:, 0], d[:, 1:].mean(1))
    for layer in range(2):
        rho = 0.2 * (rest[layer] - rest[layer].mean(0)).square().sum() / 4
        mean = d[layer, 1:].mean(0)
        centred = d[layer, 1:] - mean
        expected = unit(torch.linalg.inv(centred.T @ centred + rho * torch.eye(4)) @ mean)
        torch.testing.assert_close(left[layer, 0], expected)


# -- lda -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_lda_is_the_whitened_mean_and_leaves_out_exactly(seed):
    """Against dense algebra: (S + rho I)^-1 mean, refitted without each pair at the same rho."""
    d = differences(seed).double()
    w, left = lda_directions(d, 0.2, torch.arange(7))
    for x, found, without in zip(d, w, left, strict=True):
        rho = 0.2 * (x - x.mean(0)).square().sum() / 4

        def dense(y, rho=rho):
            centred = y - y.mean(0)
            return unit(torch.linalg.inv(centred.T @ centred + rho * torch.eye(4)) @ y.mean(0))

        torch.testing.assert_close(found, dense(x))
        for i in range(len(x)):
            torch.testing.assert_close(without[i], dense(torch.cat([x[:i], x[i + 1 :]])))


def test_lda_turns_away_from_what_varies():
    """The mean is (1, 1); the first coordinate varies 100 times as much, so it hardly counts."""
    noise = torch.randn(1, 200, 2, generator=torch.Generator().manual_seed(0)).double()
    d = noise * torch.tensor([10.0, 0.1]) + 1.0
    w = lda_directions(d, 1e-6, torch.arange(200))[0][0]
    assert w[1] > 0.99
    torch.testing.assert_close(lda_directions(d, 1e9, torch.arange(200))[0], unit(d.mean(1)), atol=1e-6, rtol=0)


def test_lda_of_identical_differences_is_their_mean():
    d = torch.tensor([3.0, 0.0, 4.0]).double().repeat(1, 5, 1)
    torch.testing.assert_close(lda_directions(d, 0.1, torch.arange(5))[0], unit(d.mean(1)))


# -- remove ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_nuisance", [1, 2])
def test_residuals_leave_out_exactly(n_nuisance):
    d = differences(7, n=9).double()
    z = torch.randn(9, n_nuisance, generator=torch.Generator().manual_seed(1)).double() + 0.5
    rest, without = residuals(d, z, torch.arange(9))

    def fit(x, y):
        design = torch.cat([torch.ones(len(y), 1, dtype=y.dtype), y], 1)
        return torch.linalg.lstsq(design, x).solution

    for layer in range(2):
        b = fit(d[layer], z)
        torch.testing.assert_close(rest[layer], d[layer] - z @ b[1:])
        torch.testing.assert_close(rest[layer].mean(0), b[0])
        for i in range(9):
            kept = [j for j in range(9) if j != i]
            torch.testing.assert_close(without[layer, i], fit(d[layer][kept], z[kept])[0])


def test_length_is_removed_from_the_direction():
    """Differences are a preference along the first axis plus length along the second; chosen is mostly longer."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(300, 1, generator=g) + 1.0
    d = 0.1 * torch.randn(2, 300, 4, generator=g) + torch.tensor([0.5, 0.0, 0.0, 0.0])
    d[:, :, 1] += 3.0 * z[:, 0]
    for direction in ("shared", "mix"):
        plain, cleaned = (
            estimate_directions(d, SPREAD, MethodConfig(direction=direction), 0, nuisance) for nuisance in (None, z)
        )
        assert (plain.w[:, 1] > 0.9).all()
        assert (cleaned.w[:, 1].abs() < 0.1).all()
        assert (cleaned.w[:, 0] > 0.99).all()
    cleaned = estimate_directions(d, SPREAD, MethodConfig(direction="lda"), 0, z)
    assert (cleaned.w[:, 0] > 0.9).all()


def test_a_nuisance_that_does_not_vary_changes_nothing():
    d = differences(8)
    plain = estimate_directions(d, SPREAD, MethodConfig(), 0)
    same = estimate_directions(d, SPREAD, MethodConfig(), 0, torch.zeros(7, 1))
    torch.testing.assert_close(plain.w, same.w)
    torch.testing.assert_close(plain.scale, same.scale)


def test_nuisance_of_pairs():
    found = nuisance_of(("logprob", "length"), torch.tensor([-4.0, -3.0]), torch.tensor([4, 1]))
    assert found[0].tolist() == pytest.approx([2.0, 1.3862944])
    assert nuisance_of(("length",), torch.tensor([-4.0, -3.0]), torch.tensor([4, 1])).shape == (1, 1)


@pytest.mark.parametrize("direction", ["pair", "random"])
def test_remove_needs_a_direction_that_averages(direction):
    with pytest.raises(UserError, match=f"shared, mix, lda, context, artifact, not to direction {direction}"):
        MethodConfig(direction=direction, remove=("length",))
