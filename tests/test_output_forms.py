"""Output forms: hand-worked values, what each is where it should be DPO, and properties of every form of the table."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import build_model, build_tokenizer, make_pairs
from innerpo.config.method import MethodConfig
from innerpo.data.batching.batch import make_batch
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError
from innerpo.methods.outputs.apo import apo_down_loss, apo_zero_loss
from innerpo.methods.outputs.cdpo import cdpo_loss
from innerpo.methods.outputs.dpo import dpo_loss
from innerpo.methods.outputs.dpo_norm import dpo_norm_loss
from innerpo.methods.outputs.dpop import dpop_loss
from innerpo.methods.outputs.hinge import hinge_loss
from innerpo.methods.outputs.lddpo import desensitised_logps, lddpo_loss
from innerpo.methods.outputs.rdpo import rdpo_loss
from innerpo.methods.outputs.robust import robust_loss
from innerpo.methods.records import PairOutputs, TermInputs, log_ratio_margin, shared_logps
from innerpo.methods.transforms.transform import IDENTITY
from innerpo.model.base import Base
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.model.reference import Reference, compute_reference
from innerpo.registry import OUTPUTS, resolve

seeds = st.integers(0, 10_000)
P = 5
BETAS = {"simpo": 2.0, "dpo_norm": 2.0}
"""beta where it is per (nat per token); 0.1 for the others."""


def softplus(x):
    return math.log1p(math.exp(x))


def one_pair(chosen, rejected, n_chosen=2, n_rejected=4, shared=(None, None)):
    """One pair's sums of log-probabilities, token counts and sums over the shared length."""
    parts = [None if x is None else torch.tensor([float(x)]) for x in (chosen, rejected, *shared)]
    n = (torch.tensor([n_chosen]), torch.tensor([n_rejected]))
    return PairOutputs(*parts[:2], *n, chosen_shared_logps=parts[2], rejected_shared_logps=parts[3])


def method_of(form):
    return MethodConfig(name="mine", alpha=0.0, gamma=0.0, output=form, beta=BETAS.get(form, 0.1))


def loss(form, policy, reference, **changes):
    return resolve(OUTPUTS, form, "form")(
        TermInputs(policy, reference, None, IDENTITY, replace(method_of(form), **changes))
    )


def random_reference(g):
    """P pairs: sums over the shared length, and over the tail of whichever response is longer."""
    n = torch.randint(1, 6, (2, P), generator=g)
    head = -3 * torch.rand(2, P, generator=g, dtype=torch.float64)
    tail = -3 * torch.rand(2, P, generator=g, dtype=torch.float64) * (n > n.min(0).values)
    return head, tail, n


def outputs(head, tail, n):
    logps = head + tail
    return PairOutputs(logps[0], logps[1], n[0], n[1], chosen_shared_logps=head[0], rejected_shared_logps=head[1])


def near(seed, size=1.0):
    """A policy whose log-ratios are at most about ``size`` nats, and its reference."""
    g = torch.Generator().manual_seed(seed)
    head, tail, n = random_reference(g)
    moved, stretched = size * (2 * torch.rand(2, 2, P, generator=g, dtype=torch.float64) - 1)
    return outputs(head + moved, tail * (1 + 0.1 * stretched), n), outputs(head, tail, n)


def swap(p):
    return PairOutputs(
        p.rejected_logps,
        p.chosen_logps,
        p.rejected_n_tokens,
        p.chosen_n_tokens,
        chosen_shared_logps=p.rejected_shared_logps,
        rejected_shared_logps=p.chosen_shared_logps,
    )


# -- hand-worked values: reference -6 over 2 tokens and -10 over 4 ---------------------------------------------------


REF = one_pair(-6, -10)


def test_dpo_norm_by_hand():
    """Log-ratios 2 over 2 tokens and -8 over 4: q = 1 + 2 = 3 nats per token."""
    assert dpo_norm_loss(one_pair(-4, -18), REF, 0.5).tolist() == pytest.approx([softplus(-1.5)])


def test_rdpo_by_hand():
    """p = 10, the chosen response 2 tokens shorter: 0.1 * 10 - 0.25 * 2 = 0.5; 2 tokens longer: 1.5."""
    assert rdpo_loss(one_pair(-4, -18), REF, 0.1, 0.25).tolist() == pytest.approx([softplus(-0.5)])
    longer, longer_ref = (replace(p, chosen_n_tokens=torch.tensor([6])) for p in (one_pair(-4, -18), REF))
    assert rdpo_loss(longer, longer_ref, 0.1, 0.25).tolist() == pytest.approx([softplus(-1.5)])


def test_a_longer_chosen_response_teaches_less_in_rdpo():
    """At equal margins the gradient is smaller where length explains the preference: the sign of alpha."""
    pulls = []
    for n in (2, 4, 6):
        chosen = torch.tensor([-6.0], requires_grad=True)
        reference = replace(REF, chosen_n_tokens=torch.tensor([n]))
        rdpo_loss(replace(reference, chosen_logps=chosen), reference, 0.1, 0.25).sum().backward()
        pulls.append(-chosen.grad.item())
    assert pulls == pytest.approx([0.1 / (1 + math.exp(x)) for x in (-0.5, 0.0, 0.5)])


def test_lddpo_by_hand():
    """The rejected response's last 2 of 4 tokens count half: -14 - 0.5 * 4 = -16 against -7 - 0.5 * 3 = -8.5."""
    policy, reference = one_pair(-4, -18, shared=(-4, -14)), one_pair(-6, -10, shared=(-6, -7))
    assert desensitised_logps(policy.rejected_logps, policy.rejected_shared_logps, 0.5).tolist() == [-16.0]
    margin = (-4 + 16) - (-6 + 8.5)
    assert lddpo_loss(policy, reference, 0.1, 0.5).tolist() == pytest.approx([softplus(-0.1 * margin)])
    shared_only = (-4 + 14) - (-6 + 7)
    assert lddpo_loss(policy, reference, 0.1, 0.0).tolist() == pytest.approx([softplus(-0.1 * shared_only)])


def test_dpop_by_hand():
    """Both responses fell, by 3 and 8: p = 5, less 2 * 3. Where the chosen response rose, it is DPO."""
    assert dpop_loss(one_pair(-9, -18), REF, 0.1, 2.0).tolist() == pytest.approx([softplus(0.1)])
    assert dpop_loss(one_pair(-4, -18), REF, 0.1, 2.0).tolist() == pytest.approx([softplus(-1.0)])


def test_cdpo_by_hand():
    found = cdpo_loss(torch.tensor([0.0, 10.0]), 0.1, 0.2).tolist()
    assert found == pytest.approx([math.log(2), 0.8 * softplus(-1.0) + 0.2 * softplus(1.0)])


def test_cdpo_is_least_at_the_log_odds_of_a_right_label():
    margins = torch.linspace(0.0, 40.0, 4001, dtype=torch.float64)
    best = margins[cdpo_loss(margins, 0.1, 0.2).argmin()]
    assert best.item() == pytest.approx(math.log(0.8 / 0.2) / 0.1, abs=0.01)


def test_robust_by_hand():
    found = robust_loss(torch.tensor([0.0, 10.0]), 0.1, 0.2).tolist()
    assert found == pytest.approx([math.log(2), (0.8 * softplus(-1.0) - 0.2 * softplus(1.0)) / 0.6])


def test_robust_is_dpo_on_average_over_flipped_labels():
    """That is what it is for; cDPO's average is another loss."""
    margin = torch.linspace(-50.0, 50.0, 11, dtype=torch.float64)
    mean = 0.7 * robust_loss(margin, 0.1, 0.3) + 0.3 * robust_loss(-margin, 0.1, 0.3)
    torch.testing.assert_close(mean, dpo_loss(margin, 0.1))
    other = 0.7 * cdpo_loss(margin, 0.1, 0.3) + 0.3 * cdpo_loss(-margin, 0.1, 0.3)
    assert not torch.allclose(other, dpo_loss(margin, 0.1), rtol=0.1)


def test_hinge_by_hand():
    assert hinge_loss(torch.tensor([-10.0, 0.0, 4.0, 10.0, 30.0]), 0.1).tolist() == pytest.approx([2, 1, 0.6, 0, 0])


def test_apo_by_hand():
    """Log-ratios 2 and -8 at beta 0.5: sigmoid(-1) + sigmoid(-4), and sigmoid(1) + sigmoid(-5)."""
    policy = one_pair(-4, -18)
    sigmoid = {x: 1 / (1 + math.exp(-x)) for x in (-5, -4, -1, 1)}
    assert apo_zero_loss(policy, REF, 0.5).tolist() == pytest.approx([sigmoid[-1] + sigmoid[-4]])
    assert apo_down_loss(policy, REF, 0.5).tolist() == pytest.approx([sigmoid[1] + sigmoid[-5]])


def test_apo_down_lowers_both_responses():
    """Away from the reference its pull on the chosen response is downwards, less than on the rejected one."""
    chosen, rejected = (torch.tensor([x], requires_grad=True) for x in (-6.0, -14.0))
    apo_down_loss(replace(REF, chosen_logps=chosen, rejected_logps=rejected), REF, 0.5).sum().backward()
    assert chosen.grad.item() > 0
    assert rejected.grad.item() > 0


@pytest.mark.parametrize(
    ("form", "off"),
    [
        ("rdpo", {"rdpo_alpha": 0.0}),
        ("lddpo", {"ld_alpha": 1.0}),
        ("dpop", {"dpop_lambda": 0.0}),
        ("cdpo", {"label_smoothing": 0.0}),
        ("robust", {"label_smoothing": 0.0}),
    ],
)
def test_a_form_that_is_switched_off_is_dpo_to_the_bit(form, off):
    policy, reference = near(3)
    expected = loss("dpo", policy, reference)
    assert torch.equal(loss(form, policy, reference, **off), expected)
    assert not torch.equal(loss(form, policy, reference), expected)


# -- every form of the table -----------------------------------------------------------------------------------------

FORMS = sorted(OUTPUTS)
CONSTANT = dict.fromkeys(("dpo", "residual", "dpo_norm", "lddpo", "dpop", "cdpo", "robust"), math.log(2))
CONSTANT |= {"hinge": 1.0, "apo_zero": 1.0, "apo_down": 1.0, "ipo": 25.0}
LOGISTIC = ["dpo", "residual", "dpo_norm", "rdpo", "lddpo"]
"""Forms that are softplus(-z) with a logit z that changes sign when the labels are swapped."""


@pytest.mark.parametrize("form", FORMS)
@given(seed=seeds)
@settings(max_examples=6, deadline=None)
def test_value_at_the_reference(form, seed):
    _, reference = near(seed)
    found = loss(form, reference, reference)
    n_c, n_r = reference.chosen_n_tokens, reference.rejected_n_tokens
    if form in CONSTANT:
        expected = torch.full((P,), CONSTANT[form], dtype=torch.float64)
    elif form == "rdpo":
        expected = torch.log1p(torch.exp(-0.05 * (n_c - n_r).double()))
    else:
        assert form == "simpo"
        expected = torch.log1p(torch.exp(1 - 2 * (reference.chosen_logps / n_c - reference.rejected_logps / n_r)))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("form", FORMS)
@given(seed=seeds)
@settings(max_examples=6, deadline=None)
def test_the_loss_falls_with_the_margin(form, seed):
    """Near the reference: less for a likelier chosen response (but in apo_down), and for a less likely rejected one."""
    policy, reference = near(seed)
    before = loss(form, policy, reference)
    fallen = replace(
        policy,
        rejected_logps=policy.rejected_logps - 0.5,
        rejected_shared_logps=policy.rejected_shared_logps - 0.5,
    )
    assert (loss(form, fallen, reference) < before).all()
    risen = replace(
        policy, chosen_logps=policy.chosen_logps + 0.5, chosen_shared_logps=policy.chosen_shared_logps + 0.5
    )
    if form != "apo_down":
        assert (loss(form, risen, reference) < before).all()


@pytest.mark.parametrize("form", FORMS)
@given(seed=seeds)
@settings(max_examples=6, deadline=None)
def test_gradients_at_the_reference_favour_the_chosen_response(form, seed):
    """A token of the shared length: up in the chosen response, down in the rejected one; apo_down only the latter."""
    head, tail, n = random_reference(torch.Generator().manual_seed(seed))
    moved = head.clone().requires_grad_()
    loss(form, outputs(moved, tail, n), outputs(head, tail, n)).sum().backward()
    chosen, rejected = moved.grad
    assert (rejected > 0).all()
    if form == "apo_down":
        torch.testing.assert_close(chosen, torch.zeros_like(chosen))
    else:
        assert (chosen < 0).all()


@pytest.mark.parametrize("form", FORMS)
@given(seed=seeds)
@settings(max_examples=6, deadline=None)
def test_swapped_labels(form, seed):
    policy, reference = near(seed)
    plain, swapped = loss(form, policy, reference), loss(form, swap(policy), swap(reference))
    torch.testing.assert_close(loss(form, swap(swap(policy)), swap(swap(reference))), plain, rtol=0, atol=0)
    assert ((swapped - plain).abs() > 1e-9).all()
    z = 0.1 * log_ratio_margin(policy, reference)
    if form in LOGISTIC:
        torch.testing.assert_close(plain.expm1().log(), -swapped.expm1().log())
    elif form == "hinge":  # near the reference no margin is beyond its bend
        torch.testing.assert_close(plain + swapped, torch.full_like(plain, 2.0))
    elif form in ("cdpo", "robust"):
        factor = 0.8 if form == "cdpo" else 1 / 0.8
        torch.testing.assert_close(swapped - plain, factor * z)
    elif form == "apo_zero":
        torch.testing.assert_close(plain + swapped, torch.full_like(plain, 2.0))
    elif form == "apo_down":
        ratios = (policy.chosen_logps - reference.chosen_logps, policy.rejected_logps - reference.rejected_logps)
        torch.testing.assert_close(plain + swapped, 1 + sum(torch.sigmoid(0.1 * r) for r in ratios))
    elif form == "dpop":
        assert (plain >= dpo_loss(z, 1.0) - 1e-12).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1e2, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
def test_finite_at_extremes(form, size, sign):
    """Margins of 10,000 nats, right and wrong, in float32: loss and gradient are numbers."""
    reference = one_pair(-20, -20, 3, 5, shared=(-20, -12))
    leaves = [torch.tensor([-20 + sign * size]), torch.tensor([-20 - sign * size])]
    chosen, rejected = (leaf.requires_grad_() for leaf in leaves)
    policy = replace(
        reference,
        chosen_logps=chosen,
        rejected_logps=rejected,
        chosen_shared_logps=chosen + 0.0,
        rejected_shared_logps=rejected + 8.0,
    )
    found = loss(form, policy, reference)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


@pytest.mark.parametrize("form", ["dpo_norm", "simpo"])
@given(seed=seeds)
@settings(max_examples=6, deadline=None)
def test_forms_per_token_do_not_count_length(form, seed):
    """A response with twice the tokens and twice the log-probability has the same loss."""
    policy, reference = near(seed)

    def doubled(p):
        return replace(p, chosen_logps=2 * p.chosen_logps, chosen_n_tokens=2 * p.chosen_n_tokens)

    torch.testing.assert_close(loss(form, doubled(policy), doubled(reference)), loss(form, policy, reference))
    assert not torch.allclose(loss("dpo", doubled(policy), doubled(reference)), loss("dpo", policy, reference))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing": 0.5}, "method.label_smoothing must be at least 0 and below 0.5, got 0.5"),
        ({"label_smoothing": -0.1}, "method.label_smoothing must be at least 0 and below 0.5, got -0.1"),
        ({"ld_alpha": 1.5}, "method.ld_alpha must be from 0 to 1, got 1.5"),
        ({"rdpo_alpha": -1.0}, "method.rdpo_alpha must not be negative, got -1"),
        ({"dpop_lambda": -1.0}, "method.dpop_lambda must not be negative, got -1"),
    ],
)
def test_options_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError) as caught:
        MethodConfig(**changes)
    assert str(caught.value) == message


# -- sums over the shared length -------------------------------------------------------------------------------------


def items():
    return PairTokenizer(build_tokenizer(), 512, 512).training_items(make_pairs(6))


@pytest.mark.parametrize("layout", ["one_row", "concatenated", "packed"])
def test_shared_sums_stop_at_the_shorter_response(layout):
    """Log-probabilities -1, -2, ... by place in the response: the sum over n tokens is -n (n + 1) / 2."""
    found = items()
    batch = make_batch(found, layout, 0)
    lengths = torch.tensor([[len(r) for r in item.responses] for item in found])
    assert (lengths[:, 0] != lengths[:, 1]).any()
    n = lengths.min(1).values.repeat_interleave(2)
    sums = shared_logps(-(batch.offset + 1).float(), batch)
    assert sums.tolist() == (-n * (n + 1) / 2).tolist()


def test_cached_references_know_them_as_passes_do(tmp_path):
    """The reference of some pairs from the cache, in another order, beside a pass over those pairs."""
    base, found = Base(build_model(), build_tokenizer(), "toy"), items()
    reference = compute_reference(base, found, "one_row", None, batch_size=4, cache_dir=tmp_path, what="toy")
    chosen = [4, 0, 3]
    batch = make_batch([found[i] for i in chosen], "one_row", base.pad_id)
    with torch.no_grad():
        passed = PairOutputs.of(sequence_outputs(base.model, batch), batch, IDENTITY)
    cached = PairOutputs.of(reference.select(chosen), batch, IDENTITY)
    for name in ("chosen_logps", "rejected_logps", "chosen_shared_logps", "rejected_shared_logps"):
        torch.testing.assert_close(getattr(cached, name), getattr(passed, name), atol=1e-5, rtol=1e-5)
    longer = passed.rejected_n_tokens > passed.chosen_n_tokens
    assert torch.equal(passed.rejected_shared_logps != passed.rejected_logps, longer)


def test_a_reference_of_some_pairs_has_no_numbers_for_the_others():
    found = items()[:3]
    n = [[len(r) for r in item.responses] for item in found]
    tokens = torch.arange(float(sum(n[2])))
    part = Reference([found[2]], torch.ones(2), torch.tensor(n[2]), token_logps=tokens)
    whole = part.spread_over(found, [2])
    assert torch.equal(whole.select([2]).token_logps, tokens)
    assert whole.select([0, 1]).token_logps.isnan().all()
