"""Cues: how they are fitted; ablation, soft ablation and inoculation while training, and nothing of them at test."""

import math
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch

from conftest import build_model, build_tokenizer, make_pairs
from innerpo.config.method import MethodConfig, default_method
from innerpo.config.run import default_run
from innerpo.data.batching.batch import make_batch
from innerpo.doctor import checks as doctor
from innerpo.errors import UserError
from innerpo.methods import method as methods
from innerpo.methods.directions.nuisance import nuisance_of
from innerpo.methods.records import PairOutputs
from innerpo.methods.subspaces.artifact import artifact
from innerpo.methods.subspaces.random import random
from innerpo.methods.subspaces.regressors import regressors
from innerpo.methods.subspaces.subspace import SubspaceInputs, fit_subspace, orthonormal
from innerpo.methods.subspaces.top import top
from innerpo.methods.terms.soft_ablate import movement_within
from innerpo.model.ablation import Ablation, ablated, without
from innerpo.model.base import Base
from innerpo.model.forward.outputs import StateRequest, sequence_outputs
from innerpo.model.inoculation import inoculated, response_signs
from innerpo.model.reference import compute_reference
from innerpo.model.steering import SteeringVector
from innerpo.registry import SUBSPACES, resolve
from innerpo.training.arguments import training_arguments
from innerpo.training.prepare import adapted, prepare
from innerpo.training.trainer import PairTrainer

# -- how a cue is fitted -----------------------------------------------------------------------------------------------


def inputs(n=60, rank=2, seed=0, **changes):
    """Two layers in 6 dimensions. d grows by 3 a unit of length along axis 0, by 2 a unit of log-prob along axis 1."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=g, dtype=torch.float64) + torch.tensor([0.5, -0.5])
    d = 0.01 * torch.randn(2, n, 6, generator=g, dtype=torch.float64)
    d[:, :, 0] += 3.0 * z[:, 0]
    d[:, :, 1] += 2.0 * z[:, 1]
    d[:, :, 2] += 5.0  # what all pairs have in common is no part of the regression
    return SubspaceInputs(d=d, regressors=z, rank=rank, generator=torch.Generator().manual_seed(seed), **changes)


def test_regressors_are_the_coefficients_of_length_and_log_probability():
    """Length first. Chosen responses are longer (+) and less likely (-) on average, so the second points back."""
    found = regressors(inputs())
    expected = torch.zeros(6, 2, dtype=torch.float64)
    expected[0, 0], expected[1, 1] = 3.0, -2.0
    spread = inputs().regressors.std(0)
    torch.testing.assert_close(found / spread, expected.expand(2, 6, 2), atol=0.02, rtol=0)


def test_a_regressor_that_does_not_vary_has_no_direction():
    x = inputs()
    same = x.regressors.clone()
    same[:, 0] = 0.7
    found = regressors(replace(x, regressors=same))
    assert not found[:, :, 0].any()
    assert found[:, :, 1].any()
    with pytest.raises(UserError, match=r"method\.cue=regressors has no direction .* does not vary"):
        fit_subspace(replace(x, regressors=torch.ones(60, 2).double()), MethodConfig(ablate=1.0), 0)


def test_what_does_not_vary_leaves_its_place_to_the_next_direction():
    """Responses of one length each: the cue is likelihood alone, and an inoculation pushes along it."""
    x = inputs()
    same = x.regressors.clone()
    same[:, 0] = 0.7
    found = fit_subspace(replace(x, regressors=same), MethodConfig(inoculate=1.0), 0)
    assert found.basis[:, :, 0].abs().argmax(1).tolist() == [1, 1]
    assert not found.basis[:, :, 1].any()
    assert (found.scale > 1.0).all()
    ablated = fit_subspace(replace(x, regressors=same), MethodConfig(ablate=1.0), 0)
    assert not ablated.basis[:, :, 0].any()  # what is taken out keeps its columns in their order
    alike = replace(x, d=x.d[:, :1].expand_as(x.d))
    with pytest.raises(UserError, match=r"method\.cue=shared cannot be inoculated: all training pairs differ alike"):
        fit_subspace(alike, MethodConfig(inoculate=1.0, cue="shared"), 0)


def test_orthonormal_by_hand():
    """(3, 0, 4), (3, 0, 9) = itself + (0, 0, 5), and twice the first: the third lies in the span of the others."""
    columns = torch.tensor([[[3.0, 3.0, 6.0], [0.0, 0.0, 0.0], [4.0, 9.0, 8.0]]])
    expected = torch.tensor([[[0.6, -0.8, 0.0], [0.0, 0.0, 0.0], [0.8, 0.6, 0.0]]]).double()
    torch.testing.assert_close(orthonormal(columns), expected)


@pytest.mark.parametrize("cue", SUBSPACES)
@pytest.mark.parametrize("rank", [1, 2, 8])
def test_every_cue_is_an_orthonormal_basis_of_at_most_the_rank(cue, rank):
    d_mis = torch.randn(2, 60, 6, generator=torch.Generator().manual_seed(3))
    x, method = inputs(rank=rank, d_mis=d_mis), MethodConfig(ablate=1.0, cue=cue, cue_rank=rank)
    found = fit_subspace(x, method, 0)
    gram = found.basis.mT @ found.basis
    kept = (found.basis != 0.0).any(1).float()
    assert 1 <= found.basis.shape[2] <= rank
    assert kept[:, 0].all()
    torch.testing.assert_close(gram, torch.diag_embed(kept), atol=1e-6, rtol=0)
    assert torch.equal(found.basis, fit_subspace(x, method, 0).basis)
    along = (x.d @ found.basis[:, :, :1].double()).squeeze(-1)
    torch.testing.assert_close(found.scale, along.std(1).float())
    turned = fit_subspace(x, method, 1).basis
    assert torch.equal(turned, found.basis) == (cue != "random")


def test_the_first_column_points_towards_chosen():
    x = inputs()
    for kind in (resolve(SUBSPACES, name, "cue") for name in ("regressors", "shared", "top")):
        first = kind(x)[:, :, 0]
        assert ((x.d.mean(1) * first).sum(-1) > 0).all()
        swapped = replace(x, d=-x.d, regressors=-x.regressors)
        torch.testing.assert_close(kind(swapped)[:, :, 0], -first)


def test_top_and_random_lie_where_differences_do():
    x = inputs(n=4, rank=3)
    span = torch.linalg.svd(x.d, full_matrices=False).Vh  # four pairs span four of six dimensions
    for kind in (top, random):
        columns = kind(x)
        torch.testing.assert_close(span.mT @ (span @ columns), columns)


def test_the_artifact_is_what_is_told_without_the_prompt():
    with pytest.raises(UserError, match=r"method\.cue=artifact needs the states .* \(d_mis\)"):
        artifact(inputs())
    d_mis = torch.zeros(2, 60, 6)
    d_mis[:, :, 4], d_mis[:, ::2, 5], d_mis[:, 1::2, 5] = 1.0, 2.0, -2.0
    found = fit_subspace(inputs(d_mis=d_mis), MethodConfig(ablate=1.0, cue="artifact"), 0).basis
    expected = torch.zeros(6, 2)
    expected[4, 0], expected[5, 1] = 1.0, 1.0
    torch.testing.assert_close(found.abs(), expected.expand(2, 6, 2), atol=1e-6, rtol=0)


# -- ablation ----------------------------------------------------------------------------------------------------------


def basis_of(rank=3, hidden=32, layers=2, seed=0):
    drawn = torch.randn(layers, hidden, rank, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn)[0]


def test_removal_by_hand():
    n = torch.tensor([[0.6], [0.8]])
    h = torch.tensor([[1.0, 2.0], [0.6, 0.8]])  # <h, n> = 2.2 and 1
    torch.testing.assert_close(without(h, n, 1.0), torch.tensor([[-0.32, 0.24], [0.0, 0.0]]))
    torch.testing.assert_close(without(h, n, 0.5), torch.tensor([[0.34, 1.12], [0.3, 0.4]]))
    assert torch.equal(without(h, n, 0.0), h)


@pytest.mark.parametrize("layout", ["concatenated", "one_row"])
@torch.no_grad()
def test_states_have_no_component_in_the_cue_and_are_untouched_afterwards(family, items, layout):
    if family == "gemma" and layout == "one_row":
        pytest.skip("sliding attention has no one_row layout")
    model, batch, request = build_model(family), make_batch(items, layout, 0), StateRequest((1, 3), token_states=True)
    ablation = Ablation((1, 3), basis_of())
    before = sequence_outputs(model, batch, request)
    with ablated(model, ablation):
        under = sequence_outputs(model, batch, request)
    after = sequence_outputs(model, batch, request)
    assert (under.token_states @ ablation.basis).abs().max() < 1e-5
    assert (before.token_states @ ablation.basis).abs().max() > 0.1
    assert not torch.allclose(under.logps, before.logps)
    for name in ("logps", "pooled", "token_states"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    with ablated(model, None):
        assert torch.equal(sequence_outputs(model, batch).logps, before.logps)


def test_without_the_span_of_its_input_no_model_has_a_preference(items):
    """All 32 dimensions taken out after block 1: what an adapter learned above it cannot show, DPO's loss is log 2."""
    batch, losses = make_batch(items, "concatenated", 0), []
    for rank in (32, 3):
        outputs = []
        for learned in (0.0, 0.1):
            model = build_model()
            with torch.no_grad():
                for p in model.model.layers[2].parameters():
                    p.add_(learned * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
                with ablated(model, Ablation((1,), torch.eye(32)[None, :, :rank])):
                    outputs.append(sequence_outputs(model, batch).logps)
        margin = (outputs[1] - outputs[0])[0::2] - (outputs[1] - outputs[0])[1::2]
        losses.append(-torch.nn.functional.logsigmoid(0.1 * margin))
    torch.testing.assert_close(losses[0], torch.full_like(losses[0], math.log(2)), atol=1e-6, rtol=0)
    assert (losses[1] - math.log(2)).abs().max() > 1e-3


@contextmanager
def checkpointed(model):
    name = next(n for n in ("activation_checkpointing", "gradient_checkpointing") if hasattr(model, f"{n}_enable"))
    getattr(model, f"{name}_enable")(**{f"{name}_kwargs": {"use_reentrant": False}})
    model.train()
    yield


@pytest.mark.parametrize("hooks", ["ablate", "inoculate"])
def test_gradients_are_those_of_the_formula_also_with_checkpointing(hooks, items):
    """Against the same change written into the blocks themselves, by torch's own derivative."""
    batch, n = make_batch(items[:4], "concatenated", 0), basis_of(layers=1)
    vector = SteeringVector((1,), n[:, :, 0])

    def gradient(how):
        model = build_model()
        block, plain = model.model.layers[1], model.model.layers[1].forward
        signs = response_signs(batch)

        def written_out(*args, **kwargs):
            h = plain(*args, **kwargs)
            return h - (h @ n[0]) @ n[0].mT if hooks == "ablate" else h + 2.0 * signs * n[0, :, 0]

        if how == "written out":
            block.forward = written_out
            context = nullcontext()
        elif hooks == "ablate":
            context = ablated(model, Ablation((1,), n))
        else:
            context = inoculated(model, batch, vector, 2.0)
        with checkpointed(model) if how == "checkpointed" else nullcontext():
            with context:
                out = sequence_outputs(model, batch, StateRequest((1, 2)))
            (out.logps.sum() + out.pooled[:, 0::2, :5].sum()).backward()  # outside of the context, as in training
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected = gradient("written out")
    for how in ("plain", "checkpointed"):
        torch.testing.assert_close(gradient(how), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_references_under_and_without_an_ablation_are_kept_apart(toy, items, tmp_path):
    def run(ablation=None, request=None):
        where = {"batch_size": 4, "cache_dir": tmp_path, "what": "toy"}
        return compute_reference(toy, items, "concatenated", request, ablation=ablation, **where)

    ablation, request = Ablation((0, 2), basis_of()), StateRequest((0, 2), token_states=True)
    plain = run()
    under = run(ablation, request)
    assert plain.computed
    assert under.computed
    assert not torch.allclose(plain.logps, under.logps)
    assert not run(ablation).computed
    assert torch.equal(run(ablation).logps, under.logps)
    assert torch.equal(run().logps, plain.logps)
    batch = make_batch(items, "concatenated", 0)
    with ablated(toy.model, ablation), torch.no_grad():
        torch.testing.assert_close(sequence_outputs(toy.model, batch).logps, under.logps)
    assert (under.token_states.transpose(0, 1) @ ablation.basis).abs().max() < 1e-5
    for other in (replace(ablation, share=0.5), replace(ablation, blocks=(0, 1)), Ablation((0, 2), basis_of(seed=1))):
        assert run(other).computed


# -- soft ablation -----------------------------------------------------------------------------------------------------


def test_movement_within_the_cue_by_hand():
    """Two layers, weights .25 and .75, sigma 2 and 1; the cue is axis 0 in the first, axes 0 and 1 in the second."""
    moved = torch.tensor([[[4.0, 9.0, 9.0]], [[1.0, 2.0, 9.0]]])
    basis = torch.zeros(2, 3, 2)
    basis[0, 0, 0] = basis[1, 0, 0] = basis[1, 1, 1] = 1.0
    found = movement_within(moved, basis, torch.tensor([2.0, 1.0]), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(found, torch.tensor([0.25 * 16 / 4 + 0.75 * 5]))
    rotation = torch.linalg.qr(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turned = movement_within(
        moved @ rotation.mT, rotation @ basis, torch.tensor([2.0, 1.0]), torch.tensor([0.25, 0.75])
    )
    torch.testing.assert_close(turned, found)
    torch.testing.assert_close(
        movement_within(10.0 * moved, basis, torch.tensor([20.0, 10.0]), torch.tensor([0.25, 0.75])), found
    )


# -- inoculation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["concatenated", "one_row", "packed"])
def test_signs_stand_at_completion_tokens_only(items, layout):
    batch = make_batch(items[:3], layout, 0)
    signs = response_signs(batch).flatten()
    for item in range(3):
        for parity, sign in ((0, 1.0), (1, -1.0)):
            own = batch.completion[batch.sequence == 2 * item + parity]
            assert batch.input_ids.flatten()[own].tolist() == list(items[item].responses[parity])
            assert (signs[own] == sign).all()
    assert signs.abs().sum() == len(batch.completion)


@pytest.mark.parametrize("layout", ["concatenated", "one_row"])
@torch.no_grad()
def test_chosen_states_move_one_way_and_rejected_ones_the_other(items, layout):
    model, batch = build_model(), make_batch(items[:3], layout, 0)
    vector, found = SteeringVector((1,), torch.linspace(-1.0, 1.0, 32)[None]), {}
    model.model.layers[2].register_forward_pre_hook(lambda _, args: found.update(state=args[0]))

    def state(kappa):
        with inoculated(model, batch, vector, kappa):
            sequence_outputs(model, batch)
        return found["state"]

    torch.testing.assert_close(state(3.0), state(0.0) + 3.0 * response_signs(batch) * vector.vectors[0])
    torch.testing.assert_close(state(3.0) + state(-3.0), 2.0 * state(0.0))
    sequence_outputs(model, batch)
    assert torch.equal(found["state"], state(0.0))


# -- in training -------------------------------------------------------------------------------------------------------


@pytest.fixture
def base():
    return Base(build_model(), build_tokenizer(), "toy", "toy")


def config_of(method, tmp_path, data=(), training=(), **changes):
    config = default_run(method)
    return replace(
        config,
        data=replace(config.data, cache_dir=tmp_path / "cache", batch_size=8, **dict(data)),
        method=replace(config.method, **{"layers": "0,1"} | changes),
        training=replace(config.training, **{"max_steps": 2, "lr": 0.01} | dict(training)),
        output_dir=tmp_path,
    )


@contextmanager
def training(config, base, evaluated=False):
    prepared = prepare(config, base, make_pairs(16))
    with adapted(prepared, config) as (policy, method):
        plain = (
            prepare(replace(config, method=default_method("dpo")), base, make_pairs(16)).pairs if evaluated else None
        )
        arguments = training_arguments(config)
        yield PairTrainer(policy, arguments, method, prepared.pairs, compile="off", eval_pairs=plain), prepared


def trained(config, base):
    with training(config, base) as (trainer, _):
        trainer.train()
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


def test_strength_zero_is_dpo_to_the_bit(base, tmp_path):
    dpo = trained(config_of("dpo", tmp_path), base)
    assert torch.equal(trained(config_of("ablate", tmp_path, ablate=0.0), base), dpo)
    assert torch.equal(trained(config_of("inoculate", tmp_path, inoculate=0.0), base), dpo)
    assert torch.equal(trained(config_of("soft-ablate", tmp_path, soft_ablate=0.0), base), dpo)


@pytest.mark.slow
def test_methods_and_controls_train_unlike_dpo_and_one_another(base, tmp_path):
    names = ("dpo", "ablate", "ablate-top", "inoculate", "inoculate-reversed", "soft-ablate")
    # Three steps, of which the last has a learning rate of 0: at the first, soft ablation has no gradient yet.
    found = [trained(config_of(name, tmp_path, training={"max_steps": 3}), base) for name in names]
    assert not any(torch.allclose(a, b, atol=1e-4) for i, a in enumerate(found) for b in found[:i])


@pytest.mark.slow
def test_ablation_trains_the_same_with_checkpointing_and_without_cached_token_states(base, tmp_path):
    """With a term on token states: a reference that is run at each step is run under the ablation too."""
    with_drift = {"gamma": 0.1}
    expected = trained(config_of("ablate", tmp_path, **with_drift), base)
    small = trained(config_of("ablate", tmp_path, data={"token_cache_gb": 0.0}, **with_drift), base)
    again = trained(config_of("ablate", tmp_path, training={"gradient_checkpointing": True}, **with_drift), base)
    assert (small - expected).norm() < 1e-4 * expected.norm()
    assert (again - expected).norm() < 1e-4 * expected.norm()


def test_a_step_sees_the_ablation_and_evaluation_does_not(base, tmp_path):
    config = config_of("ablate", tmp_path)
    with training(config, base, evaluated=True) as (trainer, prepared):
        method, ablation = trainer.method, trainer.method.ablation
        assert ablation.blocks == (0, 1)
        batch = prepared.pairs([0, 1, 2])["micro_batches"][0]
        at_start = trainer.loss_on(trainer.model, batch, training=True).per_pair
        torch.testing.assert_close(at_start, torch.full((3,), math.log(2)))  # the reference is ablated as well
        trainer.train()
        with torch.no_grad():
            bare = sequence_outputs(trainer.model, batch.tokens).logps
            plain = trainer.loss_on(trainer.model, trainer.eval_pairs[""]([0, 1, 2])["micro_batches"][0])
            with ablated(trainer.model, ablation):
                under = sequence_outputs(trainer.model, batch.tokens).logps
        assert torch.equal(plain.metrics["logps/chosen"], bare[0::2])
        assert not torch.allclose(under, bare)
        shown = trainer.evaluate()["eval_logps/chosen"]
        assert method.request is None  # a step reads no states
    with training(replace(config, method=default_method("dpo")), base, evaluated=True) as (trainer, _):
        start = trainer.evaluate()
        assert start["eval_rewards/margins"] == pytest.approx(0.0, abs=1e-6)
        assert start["eval_logps/chosen"] != pytest.approx(shown, abs=1e-3)


def test_the_policy_is_inoculated_and_the_reference_is_not(base, tmp_path):
    """v = rms sigma n; at the start the policy prefers as the base does with the cue added, and at test as the base."""
    with training(config_of("inoculate", tmp_path, gamma=0.1), base) as (trainer, prepared):
        method, batch = trainer.method, prepared.pairs([0, 1, 2])["micro_batches"][0]
        cue, directions = method.subspace, method.directions
        vectors = (directions.token_rms * cue.scale)[:, None] * cue.basis[:, :, 0]
        torch.testing.assert_close(method.inoculation.vectors, vectors)
        with inoculated(base.model, batch.tokens, SteeringVector((0, 1), vectors), 1.0), torch.no_grad():
            expected = PairOutputs.of(sequence_outputs(base.model, batch.tokens), batch.tokens, method.transform)
        found = trainer.loss_on(trainer.model, batch, training=True)
        torch.testing.assert_close(found.metrics["logps/chosen"], expected.chosen_logps)
        plain = trainer.loss_on(trainer.model, batch)
        torch.testing.assert_close(plain.terms["output"], torch.full((3,), math.log(2)))
        assert (found.terms["output"] - math.log(2)).abs().max() > 1e-3
        uncached = replace(batch, reference=replace(batch.reference, token_states=None))
        again = trainer.loss_on(trainer.model, uncached, training=True)
        torch.testing.assert_close(again.per_pair, found.per_pair)
        base_reference = plain.metrics["logps/chosen"]
        torch.testing.assert_close(batch.reference.logps[0::2], base_reference)


def test_the_cue_is_fitted_on_the_plain_reference_whatever_the_transform(base, tmp_path):
    """Its basis has the width of the residual stream; training compares with the reference under the ablation."""
    plain = prepare(config_of("innerpo", tmp_path), base, make_pairs(16))
    for transform in ("none", "svd"):
        found = prepare(config_of("ablate", tmp_path, transform=transform), base, make_pairs(16))
        assert found.method.subspace.basis.shape == (2, 32, 2)
        assert not torch.allclose(found.reference.logps[:2], plain.reference.logps[:2])
        pooled = plain.reference.pooled
        d, z = (
            pooled[:, 0::2] - pooled[:, 1::2],
            nuisance_of(("length", "logprob"), plain.reference.logps, plain.reference.n_tokens),
        )
        x = SubspaceInputs(d.double(), z, 2, torch.Generator())
        assert torch.equal(found.method.subspace.basis, fit_subspace(x, found.method.config, 1).basis)


# -- the doctor, and configs -------------------------------------------------------------------------------------------


def test_the_artifact_is_fitted_on_the_pairs_behind_other_prompts_and_companions_are_ablated_too(base, tmp_path):
    """Without a transform it starts with the artifact direction; the reference behind foreign prompts is ablated."""
    prepared = prepare(config_of("ablate-artifact", tmp_path, direction="artifact", mismatch=1.0), base, make_pairs(16))
    method, batch = prepared.method, prepared.pairs([0, 1])["micro_batches"][0]
    torch.testing.assert_close(method.subspace.basis[:, :, 0], method.directions.w)
    companion = batch.companions["mismatch"]
    with ablated(base.model, method.ablation), torch.no_grad():
        found = sequence_outputs(base.model, companion.tokens).logps
    torch.testing.assert_close(companion.reference.logps, found)
    with torch.no_grad():
        assert not torch.allclose(sequence_outputs(base.model, companion.tokens).logps, found)


def diagnosed(name, base, tmp_path, **changes):
    config = config_of(name, tmp_path, **changes)
    config = replace(config, data=replace(config.data, dataset="embedded:cue", max_train_prompts=24))
    return doctor.run_checks(config, base=base)


@pytest.mark.parametrize("name", ["ablate", "inoculate-reversed"])
def test_the_doctor_passes(name, base, tmp_path):
    found = diagnosed(name, base, tmp_path)
    assert found.failures == []
    whole = {what for what, _, _ in found.whole}
    assert ("cue in the states while training" in whole) == (name == "ablate")
    assert ("push along the cue" in whole) == (name != "ablate")
    assert "states after training" in whole


@pytest.mark.slow
def test_the_doctor_finds_hooks_that_do_nothing_or_the_wrong_thing_or_stay(base, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(methods, "ablated", lambda *_: nullcontext())
        assert [f.split(":")[0] for f in diagnosed("ablate", base, tmp_path).failures] == [
            "cue in the states while training"
        ]
    with monkeypatch.context() as patch:
        patch.setattr(methods, "inoculated", lambda m, b, v, k: inoculated(m, b, v, -k))
        assert [f.split(":")[0] for f in diagnosed("inoculate", base, tmp_path).failures] == ["push along the cue"]

    @contextmanager
    def stays(model, batch, vector, kappa):
        if vector is not None:
            model.get_submodule("base_model.model.model.layers.1").register_forward_hook(lambda _, __, out: out + 0.1)
        yield

    with monkeypatch.context() as patch:
        patch.setattr(methods, "inoculated", stays)
        assert "states after training: changed" in diagnosed("inoculate", base, tmp_path).failures


def test_configs_that_make_no_sense():
    for changes, says in (
        ({"cue": "regresors"}, r"unknown method\.cue 'regresors'; did you mean 'regressors'"),
        ({"cue_rank": 9}, r"method\.cue_rank must be 1 to 8, got 9"),
        ({"ablate": 1.5}, r"method\.ablate must be a share, 0 to 1, got 1\.5"),
        ({"ablate": 1.0, "soft_ablate": 1.0}, r"takes out the cue on which method\.soft_ablate works"),
        ({"ablate": 1.0, "inoculate": 1.0}, r"takes out the cue on which method\.inoculate works"),
        ({"ablate": 1.0, "site": "mlp_out"}, r"it needs method\.site=residual, not mlp_out"),
        ({"name": "dpo", "alpha": 0.0, "gamma": 0.0, "ablate": 1.0}, r"dpo has no terms on hidden states, got a cue"),
    ):
        with pytest.raises(UserError, match=says):
            MethodConfig(**changes)
    assert default_method("ablate").reads_states
    assert not default_method("dpo").needs_cue
