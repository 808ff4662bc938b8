"""Offsets and weights of training pairs: cross-fitting, calibration, controls, and the losses that use them."""

import math
from dataclasses import replace

import pytest
import torch

from conftest import build_model, build_tokenizer, make_pairs
from innerpo.config.method import MethodConfig, default_method
from innerpo.config.run import default_run
from innerpo.doctor.checks import run_checks
from innerpo.errors import UserError
from innerpo.methods.notes.notes import NoteInputs, PairNotes
from innerpo.methods.notes.probe import length, permuted, probe, reversed_, slope
from innerpo.methods.notes.reweight import disputed, disputed_random
from innerpo.methods.notes.reweight import probe as upweighted
from innerpo.methods.notes.reweight import random as upweighted_at_random
from innerpo.model.base import Base
from innerpo.registry import OFFSETS, WEIGHTINGS, resolve
from innerpo.training.fitted_log import _log_notes
from innerpo.training.prepare import adapted, prepare
from innerpo.training.trainer import PairTrainer


def inputs(n=60, signal=1.0, per_prompt=1, seed=0, **method):
    """Differences of two layers in 8 dimensions; along the first axis the chosen response lies ``signal`` further."""
    generator = torch.Generator().manual_seed(seed)
    d = torch.randn(2, n, 8, generator=generator)
    d[:, :, 0] += signal
    clusters = torch.arange(n) // per_prompt
    lengths = torch.randn(n, generator=generator).double()
    return NoteInputs(d, clusters, lengths, None, MethodConfig(**method), 0)


def test_the_slope_is_the_log_odds_of_two_kinds_of_margins():
    """90 margins of 1 and 10 of -1: the likeliest sigmoid(s) is, with Platt's targets, close to .9."""
    margins = torch.tensor([1.0] * 90 + [-1.0] * 10)
    # d/ds: sum_i m_i (t - sigmoid(s m_i)) = 0, t = 101/102: 90 (t - p) = 10 (t - 1 + p), p = (80 t + 10) / 100
    p = (80 * 101 / 102 + 10) / 100
    assert slope(margins) == pytest.approx(math.log(p / (1 - p)), abs=1e-4)
    assert 2.0 < slope(torch.ones(100)) < 6.0  # finite where every pair is right: log 101 = 4.6
    assert slope(-margins) == pytest.approx(0.0, abs=1e-4)  # worse than chance says nothing


@pytest.mark.parametrize("difference", [0.25, -0.25, 0.0])
def test_lengths_that_differ_alike_in_all_pairs_say_what_their_number_says(difference):
    """Of N pairs all agree: log (N + 1) by Platt's targets. A length that is always on the wrong side says nothing."""
    x = replace(inputs(n=60), length=torch.full((60,), difference).double())
    expected = math.log(54 + 1) if difference > 0 else 0.0  # nine folds of ten
    assert length(x).tolist() == pytest.approx([expected] * 60, abs=1e-3)


def test_the_log_names_each_weight(caplog):
    caplog.set_level("INFO", "innerpo")
    weight = torch.tensor([1.0] * 90 + [4.0] * 6 + [0.25] * 4)
    _log_notes(PairNotes(torch.zeros(100), weight))
    assert caplog.messages == ["weights: 4.0% of the pairs weigh 0.25 times, 6.0% of the pairs weigh 4 times the rest"]
    _log_notes(PairNotes(torch.zeros(101), torch.linspace(0.5, 1.5, 101)))
    assert caplog.messages[1:] == ["weights: from 0.5 to 1.5, median 1"]


def test_offsets_are_calibrated_log_odds():
    """On pairs of a known separation, sigmoid(b) is how often the probe is right among pairs with such a |b|."""
    x = inputs(n=3000, signal=0.5)
    b = probe(x)
    assert torch.isfinite(b).all()
    strong = b.abs() > b.abs().median()
    for some in (strong, ~strong):
        said = torch.sigmoid(b[some].abs()).mean()
        right = (b[some] > 0).float().mean()
        assert abs(float(said - right)) < 0.03
    assert (b > 0).float().mean() > 0.65


@pytest.mark.parametrize("direction", ["shared", "lda"])
def test_a_pair_has_no_part_in_its_own_offset(direction):
    """A planted pair, and its sibling of the same prompt: turned round or magnified, its offset follows linearly."""
    x = inputs(n=40, per_prompt=2, direction=direction)
    before = probe(x)
    changed = x.d.clone()
    changed[:, 6] *= -50.0
    changed[:, 7] = 3.0 * changed[:, 7] + 0.0
    after = probe(replace(x, d=changed))
    assert after[6] == pytest.approx(-50.0 * float(before[6]), rel=1e-5)
    assert after[7] == pytest.approx(3.0 * float(before[7]), rel=1e-5)
    others = [i for i in range(40) if i not in (6, 7)]
    assert not torch.allclose(after[others], before[others], rtol=1e-3)  # it does have a part in theirs


def test_a_probe_worse_than_chance_has_no_slope():
    """Not a tiny one, of which the sign of every offset would be left."""
    assert slope(-torch.rand(50, generator=torch.Generator().manual_seed(0))) == 0.0
    weights = upweighted(inputs(n=400, signal=0.0, per_prompt=2))
    assert (weights > 1).float().mean() < 0.5


def test_on_noise_the_probe_says_next_to_nothing():
    b = probe(inputs(n=400, signal=0.0, per_prompt=2))
    assert abs(float((b.sign() + 1).mean() / 2 - 0.5)) < 0.1  # a fold whose probe is worse than chance says nothing: 0
    assert float(b.abs().mean()) < 0.15


def test_the_controls():
    x = inputs(signal=0.7)
    b = probe(x)
    shuffled = permuted(x)
    assert torch.equal(shuffled.sort()[0], b.sort()[0])
    assert (shuffled != b).float().mean() > 0.8
    assert torch.equal(permuted(x), shuffled)
    assert not torch.equal(permuted(replace(x, seed=1)).sort()[0], shuffled)
    assert torch.equal(reversed_(x), -b)
    by_length = length(replace(x, length=x.length.abs() + 0.1))
    assert (by_length > 0).all()  # chosen is always the longer one
    assert torch.equal(length(replace(x, d=torch.zeros_like(x.d))), length(x))  # states have no part in it


def test_weights_go_to_the_pairs_that_the_probe_gets_wrong():
    x = inputs(signal=0.7, reweight="probe", reweight_factor=5.0)
    wrong = probe(x) < 0
    assert 0 < int(wrong.sum()) < 30
    assert torch.equal(upweighted(x), torch.where(wrong, 5.0, 1.0))
    at_random = upweighted_at_random(x)
    assert int((at_random == 5.0).sum()) == int(wrong.sum())
    assert not torch.equal(at_random == 5.0, wrong)


def test_two_probes_tell_a_wrong_label_from_a_pair_that_contradicts_the_cue():
    """A cue that is large and varies, and a right feature that is small and hardly varies.

    200 pairs, in 20 of which the cue points the other way, and in 10 all does: their labels are swapped.
    """
    generator = torch.Generator().manual_seed(1)
    d = 0.3 * torch.randn(1, 200, 8, generator=generator)
    d[0, :, 0] += 3.0 + torch.randn(200, generator=generator)  # the cue
    d[0, :20, 0] -= 6.0
    d[0, :, 1] += 1.0  # the right feature
    d[0, 20:30] *= -1.0
    x = NoteInputs(
        d, torch.arange(200), torch.zeros(200).double(), None, MethodConfig(reweight="disputed", reweight_factor=5.0), 0
    )
    weight = disputed(x)
    assert (upweighted(x)[:30] == 5.0).float().mean() > 0.9  # one probe takes them for the same
    assert (weight[:20] == 5.0).float().mean() > 0.9
    assert (weight[20:30] == 1.0 / 5.0).float().mean() > 0.9
    assert (weight[30:] == 1.0).float().mean() > 0.9
    assert torch.equal(disputed_random(x).sort()[0], weight.sort()[0])
    assert not torch.equal(disputed_random(x), weight)


@pytest.mark.parametrize("name", OFFSETS)
def test_every_offset_is_one_finite_number_a_pair(name):
    b = resolve(OFFSETS, name, "offset")(inputs())
    assert b.shape == (60,)
    assert torch.isfinite(b).all()


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_every_weighting_is_one_positive_number_a_pair(name):
    w = resolve(WEIGHTINGS, name, "weighting")(inputs())
    assert w.shape == (60,)
    assert (w > 0).all()


def test_too_few_prompts():
    with pytest.raises(UserError, match="need training pairs of at least 4 prompts, got 3"):
        probe(inputs(n=6, per_prompt=2))


# -- in training ---------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path):
    return Base(build_model(), build_tokenizer(), "toy", "toy")


def config_of(method, tmp_path, **changes):
    config = default_run(method)
    data = replace(config.data, cache_dir=tmp_path / "cache", batch_size=8)
    training = replace(config.training, max_steps=6, lr=0.01)
    own = replace(config.method, layers="0,1", **changes)
    return replace(config, data=data, method=own, training=training, output_dir=tmp_path)


def trained(config, base):
    """The adapter's weights and the losses of a few steps."""
    from innerpo.training.arguments import training_arguments

    prepared = prepare(config, base, make_pairs(24))
    with adapted(prepared, config) as (policy, method):
        trainer = PairTrainer(policy, training_arguments(config), method, prepared.pairs, compile="off")
        trainer.train()
        weights = torch.cat([p.detach().flatten() for p in policy.parameters() if p.requires_grad])
    return weights, prepared


def test_residual_with_weight_0_is_dpo_to_the_bit(base, tmp_path):
    dpo, _ = trained(config_of("dpo", tmp_path), base)
    none, prepared = trained(config_of("residual", tmp_path, offset_weight=0.0), base)
    assert torch.equal(dpo, none)
    assert prepared.notes.offset.abs().max() > 0
    full, _ = trained(config_of("residual", tmp_path), base)
    assert not torch.equal(dpo, full)


def test_reweight_with_factor_1_is_dpo_to_the_bit(base, tmp_path):
    dpo, _ = trained(config_of("dpo", tmp_path), base)
    same, prepared = trained(config_of("reweight", tmp_path, reweight_factor=1.0), base)
    assert torch.equal(prepared.notes.weight, torch.ones(24))
    assert torch.equal(dpo, same)


def test_training_reads_no_states_of_the_policy(base, tmp_path):
    """Directions are the reference's; a step costs what a step of DPO costs."""
    prepared = prepare(config_of("residual", tmp_path), base, make_pairs(24))
    assert prepared.method.request is None
    assert prepared.method.inner_reward is not None


def test_weights_multiply_losses_and_offsets_add_logits(base, tmp_path):
    prepared = prepare(config_of("residual", tmp_path), base, make_pairs(24))
    batch = prepared.pairs([3, 1, 2])["micro_batches"][0]
    order = [int(i.rsplit("/", 1)[1]) for i in batch.ids]
    assert torch.equal(batch.notes.offset, prepared.notes.offset[order])
    from innerpo.methods.records import PairOutputs

    here = PairOutputs.of(batch.reference, batch.tokens, prepared.method.transform)
    own = PairNotes(torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 1.0, 3.0]))
    found = prepared.method.loss(here, here, own).per_pair
    expected = [math.log(2), math.log(1 + math.exp(-2)), 3 * math.log(1 + math.e)]
    torch.testing.assert_close(found, torch.tensor(expected))
    torch.testing.assert_close(prepared.method.loss(here, here).per_pair, torch.full((3,), math.log(2)))
    swapped = own.swapped()
    torch.testing.assert_close(swapped.offset, torch.tensor([0.0, -2.0, 1.0]))
    assert torch.equal(swapped.weight, own.weight)


@pytest.mark.parametrize(
    "name", ["residual", "residual-permuted", "residual-length", "residual-reversed", "reweight", "reweight-disputed"]
)
def test_the_doctor_passes(name, base, tmp_path):
    config = config_of(name, tmp_path)
    config = replace(config, data=replace(config.data, dataset="embedded:cue", max_train_prompts=24))
    assert run_checks(config, base=base).failures == []


def test_dpo_has_no_notes():
    with pytest.raises(UserError, match="dpo has no terms on hidden states, got offsets or weights of pairs"):
        replace(default_method("dpo"), reweight="probe")
    with pytest.raises(UserError, match=r"unknown method\.offset 'prob'; did you mean 'probe'"):
        MethodConfig(offset="prob")
    with pytest.raises(UserError, match=r"method\.reweight_factor must be above 0"):
        MethodConfig(reweight_factor=0.0)
