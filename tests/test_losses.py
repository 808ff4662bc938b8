"""Loss terms: hand-worked values, and the symmetries that the design claims, each pair seen before the mean."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from innerpo.config.method import MethodConfig
from innerpo.methods.directions.estimate import estimate_directions
from innerpo.methods.outputs.dpo import dpo_loss
from innerpo.methods.outputs.ipo import ipo_loss
from innerpo.methods.outputs.simpo import simpo_loss
from innerpo.methods.records import Directions, PairOutputs, TermInputs, unit
from innerpo.methods.terms.angle import angle_loss
from innerpo.methods.terms.drift import orthogonal_drift
from innerpo.methods.terms.inner import inner_loss, margin
from innerpo.methods.terms.reroute import relative_distance
from innerpo.methods.terms.separation import relative_separation
from innerpo.methods.transforms.transform import IDENTITY
from innerpo.registry import TERMS, resolve

L, P, H = 3, 5, 6
seeds = st.integers(0, 10_000)


def random_pairs(seed):
    """Policy and reference outputs of P pairs that differ, in float64 (a parity test is no test of rounding)."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    n = torch.randint(1, 5, (P, 2), generator=g)
    sequence = torch.repeat_interleave(torch.arange(2 * P), n.flatten())

    def outputs():
        return PairOutputs(
            draw(P) - 9,
            draw(P) - 9,
            n[:, 0],
            n[:, 1],
            draw(L, P, H),
            draw(L, P, H),
            draw(L, len(sequence), H),
            sequence,
        )

    return outputs(), outputs()


def directions_for(reference, method, seed=0):
    d = estimate_directions(reference.difference, torch.ones(L), method, seed)
    return Directions(
        *(getattr(d, f).double() for f in ("w", "scale", "layer_weights", "accuracy", "token_spread")), d.own
    )


def value(name, policy, reference, directions, method):
    return resolve(TERMS, name, "term").function(TermInputs(policy, reference, directions, IDENTITY, method))


def swap(p):
    """The same pairs with chosen and rejected exchanged."""
    other = p.sequence ^ 1
    return PairOutputs(
        p.rejected_logps,
        p.chosen_logps,
        p.rejected_n_tokens,
        p.chosen_n_tokens,
        p.rejected_states,
        p.chosen_states,
        p.token_states,
        other,
    )


def map_states(p, f, token_states=True):
    return PairOutputs(
        p.chosen_logps,
        p.rejected_logps,
        p.chosen_n_tokens,
        p.rejected_n_tokens,
        f(p.chosen_states),
        f(p.rejected_states),
        f(p.token_states) if token_states else p.token_states,
        p.sequence,
    )


# -- hand-worked values ----------------------------------------------------------------------------------------------


def test_dpo_values():
    found = dpo_loss(torch.tensor([0.0, 10.0, -10.0]), beta=0.1)
    assert found.tolist() == pytest.approx([math.log(2), math.log1p(math.exp(-1)), math.log1p(math.e)], abs=1e-6)


def logps(chosen, rejected, chosen_n_tokens=2, rejected_n_tokens=4):
    """One pair's outputs, without states."""
    one = (torch.tensor([float(x)]) for x in (chosen, rejected))
    return PairOutputs(*one, torch.tensor([chosen_n_tokens]), torch.tensor([rejected_n_tokens]))


def test_ipo_by_hand():
    """Log-ratios 2 over 2 tokens and -8 over 4: q = 1 + 2 = 3; beta 0.25 seeks 2: (3 - 2)^2. Passing it costs."""
    assert ipo_loss(logps(-4, -18), logps(-6, -10), 0.25).tolist() == [1.0]
    assert ipo_loss(logps(-6, -10), logps(-6, -10), 0.25).tolist() == [4.0]  # at the reference: (1 / (2 beta))^2
    assert ipo_loss(logps(-4, -14), logps(-6, -10), 0.25).tolist() == [0.0]


def test_simpo_by_hand():
    """-2 and -5 nats per token: beta * 3 - gamma = 5; no reference is looked at."""
    expected = math.log1p(math.exp(-5.0))
    assert simpo_loss(logps(-4, -20), 2.0, 1.0).tolist() == pytest.approx([expected], abs=1e-7)
    assert simpo_loss(logps(-4, -8), 2.0, 0.0).tolist() == pytest.approx([math.log(2)])


def test_sft_by_hand():
    assert value("sft", logps(-7, -1), logps(0, 0), None, MethodConfig()).tolist() == [3.5]


def test_reroute_and_retain_by_hand():
    """Two layers of weight 1/4 and 3/4: moved 3 over |d| = 2, and 5 over 10: 9/16 + 3/16; a zero |d| counts 0."""
    moved, d = torch.tensor([[[3.0, 0.0]], [[3.0, 4.0]]]), torch.tensor([[[0.0, 2.0]], [[10.0, 0.0]]])
    assert relative_distance(moved, d, torch.tensor([0.25, 0.75])).tolist() == [0.75]
    assert relative_distance(moved, d * torch.tensor([1.0, 0.0])[:, None, None], torch.tensor([0.0, 1.0])) == 0.0


def test_rerouted_states_have_no_loss():
    """Rejected states where the reference has the chosen ones: reroute is 0, and it does not ask about the chosen."""
    policy, reference = random_pairs(4)
    method = MethodConfig()
    directions = directions_for(reference, method)
    there = PairOutputs(**{**policy.__dict__, "rejected_states": reference.chosen_states})
    assert value("reroute", there, reference, directions, method).tolist() == pytest.approx([0.0] * P, abs=1e-20)
    assert (value("retain", there, reference, directions, method) > 0.01).all()


def test_margin_by_hand():
    """Two layers, one pair: (3 - 1) / 2 at weight 1/4, (-1 - 1) / 4 at weight 3/4."""
    delta = torch.tensor([[[3.0, 9.0]], [[7.0, -1.0]]])
    d = torch.tensor([[[1.0, 5.0]], [[0.0, 1.0]]])
    w = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    m = margin(delta, d, w, torch.tensor([2.0, 4.0]), torch.tensor([0.25, 0.75]))
    assert m.tolist() == [0.25 * 1.0 + 0.75 * -0.5]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("hinge", [4.0, 1.0, 0.0]),  # (1 - m)^2 below tau = 1, then flat
        ("logistic", [math.log1p(math.exp(2.0)), math.log(2.0), math.log1p(math.exp(-6.0))]),
        ("linear", [1.0, 0.0, -1.0]),  # bounded at tau
    ],
)
def test_inner_forms(form, expected):
    method = MethodConfig(inner=form, tau=1.0, beta_h=2.0)
    assert inner_loss(torch.tensor([-1.0, 0.0, 3.0]), method).tolist() == pytest.approx(expected, abs=1e-6)


def test_drift_by_hand():
    """One pair, w along the first axis. Chosen: 2 tokens moved (5, 3) and (0, 1); rejected: 1 token moved (0, 2).

    Across w: squares 9 and 1 (mean 5), and 4; the mean over responses is 4.5, over a spread of 9: 0.5.
    """
    found = orthogonal_drift(
        moved=torch.tensor([[[5.0, 3.0], [0.0, 1.0], [0.0, 2.0]]]),
        w=torch.tensor([[[1.0, 0.0]]]),
        sequence=torch.tensor([0, 0, 1]),
        n_tokens=torch.tensor([2, 1]),
        spread=torch.tensor([9.0]),
        layer_weights=torch.tensor([1.0]),
    )
    assert found.tolist() == [0.5]


def test_angle_by_hand():
    w = torch.tensor([[[1.0, 0.0]] * 4])
    delta = torch.tensor([[[2.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    assert angle_loss(delta, w, torch.ones(1)).tolist() == pytest.approx([0.0, 2.0, 1.0, 1.0])


def test_separation_by_hand():
    delta, d = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]), torch.tensor([[[0.0, 10.0], [0.0, 0.0]]])
    assert relative_separation(delta, d, torch.ones(1)).tolist() == pytest.approx([-0.5, 0.0])


def test_coherence_counts_only_a_fall_in_likelihood():
    policy, reference = random_pairs(0)
    found = value("coherence", policy, reference, None, MethodConfig())
    expected = ((reference.chosen_logps - policy.chosen_logps) / policy.chosen_n_tokens).clamp(min=0)
    assert torch.equal(found, expected)
    assert (found == 0).any()
    assert (found > 0).any()


# -- symmetries ------------------------------------------------------------------------------------------------------


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_swapping_labels(seed):
    """margin odd (shared), drift and separation unchanged, angle 1 - cos to 1 + cos, DPO's argument odd."""
    policy, reference = random_pairs(seed)
    method = MethodConfig()
    directions = directions_for(reference, method)
    a, b = (policy, reference), (swap(policy), swap(reference))

    def m(p, r):
        x = TermInputs(p, r, directions, IDENTITY, method)
        return margin(p.difference, r.difference, x.w, directions.scale, directions.layer_weights)

    torch.testing.assert_close(m(*a), -m(*b))
    for name in ("drift", "separation"):
        torch.testing.assert_close(value(name, *a, directions, method), value(name, *b, directions, method))
    for form, odd in (("ipo", lambda v: v.sqrt()), ("simpo", lambda v: torch.log(torch.expm1(v)))):
        # IPO: q - 1 / (2 beta) and -q - 1 / (2 beta), one of which is below 0; SimPO: gamma - beta q, gamma + beta q
        swapped = MethodConfig(output=form, beta=0.001 if form == "ipo" else 2.0)
        total = odd(value("output", *a, None, swapped)) + odd(value("output", *b, None, swapped))
        expected = 2 / (2 * swapped.beta) if form == "ipo" else 2 * swapped.simpo_gamma
        torch.testing.assert_close(total, torch.full((P,), expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    angle_sum = value("angle", *a, directions, method) + value("angle", *b, directions, method)
    torch.testing.assert_close(angle_sum, torch.full((P,), 2.0, dtype=torch.float64))


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_pair_direction_is_blind_to_labels(seed):
    """With direction=pair the label enters through the output term alone (design, section 3)."""
    policy, reference = random_pairs(seed)
    method = MethodConfig(direction="pair")
    directions = directions_for(reference, method)
    for name in ("inner", "drift", "angle", "separation"):
        torch.testing.assert_close(
            value(name, policy, reference, directions, method),
            value(name, swap(policy), swap(reference), directions, method),
        )
    output = value("output", policy, reference, None, method) - value(
        "output", swap(policy), swap(reference), None, method
    )
    assert (output.abs() > 1e-6).all()


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_shuffled_labels(seed):
    """Any pairs relabelled: inner of direction=pair does not notice; directions and inner of shared do."""
    policy, reference = random_pairs(seed)
    flipped = torch.tensor([True, False, True, False, False])

    def relabel(p):
        other = swap(p)
        mixed = {}
        for name in ("chosen_logps", "rejected_logps", "chosen_states", "rejected_states"):
            a, b = getattr(p, name), getattr(other, name)
            mask = flipped if a.dim() == 1 else flipped[None, :, None]
            mixed[name] = torch.where(mask, b, a)
        return PairOutputs(**mixed, chosen_n_tokens=p.chosen_n_tokens, rejected_n_tokens=p.rejected_n_tokens)

    values = {}
    for direction in ("pair", "shared"):
        method = MethodConfig(direction=direction, tau=50.0)
        p, r = relabel(policy), relabel(reference)
        before = value("inner", policy, reference, directions_for(reference, method), method)
        values[direction] = before, value("inner", p, r, directions_for(r, method), method)
    torch.testing.assert_close(*values["pair"])
    assert not torch.allclose(*values["shared"], rtol=1e-3)


@pytest.mark.parametrize("direction", ["shared", "pair", "mix", "lda", "random"])
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_rescaling_a_layer_changes_no_margin(direction, seed):
    """Scale policy and reference states of a layer by 7: directions, scales and margin follow, m does not change."""
    policy, reference = random_pairs(seed)
    scale = torch.tensor([7.0, 1.0, 0.01], dtype=torch.float64)[:, None, None]
    method = MethodConfig(direction=direction)
    p, r = (map_states(x, lambda s: s * scale) for x in (policy, reference))
    for name in ("inner", "reroute", "retain"):
        before = value(name, policy, reference, directions_for(reference, method), method)
        torch.testing.assert_close(value(name, p, r, directions_for(r, method), method), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("direction", ["shared", "pair", "mix", "lda"])
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_joint_rotation_changes_nothing(direction, seed):
    """Rotate policy and reference states by the same orthogonal matrix: margin, drift, angle and separation stay."""
    policy, reference = random_pairs(seed)
    g = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(L, H, H, generator=g, dtype=torch.float64))[0]
    method = MethodConfig(direction=direction)
    directions = directions_for(reference, method)
    p, r = (map_states(x, lambda s: s @ rotation) for x in (policy, reference))
    rotated = directions_for(r, method)
    for name in ("inner", "drift", "angle", "separation", "reroute", "retain"):
        torch.testing.assert_close(
            value(name, p, r, rotated, method),
            value(name, policy, reference, directions, method),
            rtol=1e-4,
            atol=1e-5,
        )


# What reads more than the pairs' outputs has its fixed point tested in test_companions.py and test_cues.py.
OF_PAIRS = sorted(n for n in TERMS if n != "soft_ablate" and not resolve(TERMS, n, "term").companions)


@pytest.mark.parametrize("name", OF_PAIRS)
@pytest.mark.parametrize("direction", ["shared", "pair", "mix", "lda", "random"])
def test_policy_equal_to_reference(name, direction):
    """The fixed point: margin 0, drift exactly 0, separation 0, DPO log 2; every gradient finite."""
    _, reference = random_pairs(1)
    method = MethodConfig(direction=direction)
    directions = directions_for(reference, method)
    states = (reference.chosen_states, reference.rejected_states, reference.token_states)
    leaves = [t.clone().requires_grad_() for t in states]
    logps = reference.chosen_logps.clone().requires_grad_()
    policy = PairOutputs(
        logps,
        reference.rejected_logps,
        reference.chosen_n_tokens,
        reference.rejected_n_tokens,
        *leaves,
        reference.sequence,
    )
    found = value(name, policy, reference, directions, method)
    expected = {"inner": method.tau**2, "drift": 0.0, "separation": 0.0, "coherence": 0.0, "output": math.log(2)}
    expected |= {"reroute": 1.0, "retain": 0.0}
    if name in expected:
        torch.testing.assert_close(
            found, torch.full_like(found, expected[name]), atol=1e-12, rtol=1e-6 if name == "reroute" else 1e-12
        )
    if name == "drift":
        assert (found == 0).all()
    gradients = torch.autograd.grad(found.sum(), [*leaves, logps], allow_unused=True)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)


@pytest.mark.parametrize("form", ["dpo", "ipo", "simpo"])
def test_output_gradients_at_the_reference_favour_the_chosen_response(form):
    _, reference = random_pairs(1)
    chosen, rejected = (x.clone().requires_grad_() for x in (reference.chosen_logps, reference.rejected_logps))
    policy = PairOutputs(chosen, rejected, reference.chosen_n_tokens, reference.rejected_n_tokens)
    value("output", policy, reference, None, MethodConfig(output=form)).sum().backward()
    assert (chosen.grad < 0).all()
    assert (rejected.grad > 0).all()


@pytest.mark.parametrize("name", ["inner", "angle", "separation", "reroute", "retain"])
def test_gradients_are_finite_for_zero_differences(name):
    _, reference = random_pairs(2)
    method = MethodConfig(direction="mix")
    directions = directions_for(reference, method)
    same = reference.chosen_states.clone().requires_grad_()
    zero = PairOutputs(
        *(getattr(reference, f) for f in ("chosen_logps", "rejected_logps", "chosen_n_tokens", "rejected_n_tokens")),
        same,
        same,
    )
    found = value(name, zero, zero, directions, method)
    assert torch.isfinite(found).all()
    (gradient,) = torch.autograd.grad(found.sum(), same)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["inner", "angle"])
def test_gradient_step_moves_along_the_direction(name):
    """Descending the term increases <delta, w>: the sign that earlier code got wrong."""
    policy, reference = random_pairs(3)
    method = MethodConfig(tau=50.0)
    directions = directions_for(reference, method)
    states = policy.chosen_states.clone().requires_grad_()
    moved = map_states(policy, lambda s: s, token_states=True)
    moved = PairOutputs(**{**moved.__dict__, "chosen_states": states})
    (gradient,) = torch.autograd.grad(value(name, moved, reference, directions, method).sum(), states)
    along = (-gradient * directions.w[:, None]).sum(-1)
    active = directions.layer_weights > 0
    assert (along[active] > 0).all()


def test_hinge_is_flat_beyond_tau():
    m = torch.tensor([1.5, 5.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(inner_loss(m, MethodConfig(tau=1.0)).sum(), m)
    assert gradient.tolist() == [0.0, 0.0]


def test_unit_of_zero_is_zero_with_finite_gradient():
    x = torch.zeros(3, requires_grad=True)
    unit(x).sum().backward()
    assert unit(x).tolist() == [0.0, 0.0, 0.0]
    assert torch.isfinite(x.grad).all()
