"""Companions of pairs: how they are made, the directions and terms on them, anchors, and their place in training."""

import math
from dataclasses import replace

import pytest
import torch

from conftest import build_model, build_tokenizer, make_pairs
from innerpo.config.data import DataConfig
from innerpo.config.method import MethodConfig
from innerpo.config.run import default_run
from innerpo.data.companions import companions
from innerpo.data.pairs import PreferencePair, cluster_of
from innerpo.data.texts import anchor_items, paragraphs, sentences
from innerpo.data.tokens import PairTokenizer, PromptItem
from innerpo.doctor.checks import run_checks
from innerpo.errors import UserError
from innerpo.methods.directions.estimate import estimate_directions
from innerpo.methods.notes.notes import NoteInputs
from innerpo.methods.notes.probe import probe
from innerpo.methods.records import CompanionOutputs, PairOutputs, TermInputs
from innerpo.methods.terms.anchor import anchor_drift, anchor_kl, k3, relative_movement
from innerpo.methods.terms.mismatch import foreign, mismatch, ties
from innerpo.methods.transforms.transform import IDENTITY
from innerpo.model.base import Base
from innerpo.model.forward.outputs import SequenceOutputs
from innerpo.training import trainer as trainer_module
from innerpo.training.companions import companion_items, rows_with, swapped
from innerpo.training.prepare import adapted, prepare
from innerpo.training.trainer import PairTrainer

NAMES = ["mismatch", "mismatch-ties", "anchor-kl", "anchor-drift-self", "anchor-kl-self"]
DIRECTIONS = ["context-direction", "artifact-direction", "residual-context", "residual-artifact"]


def item(prompt, chosen, rejected, cluster, name):
    return PromptItem((prompt,), ((chosen,), (rejected,)), (1, 1), ((0, 1, name),), cluster)


ITEMS = [item(10 + i, 20 + i, 30 + i, f"c{i}", f"p{i}") for i in range(5)]

# -- making them -----------------------------------------------------------------------------------------------------


def test_mismatch_is_a_derangement_of_the_prompts():
    found = companions(ITEMS, "mismatch", 0)
    assert [f.responses for f in found] == [i.responses for i in ITEMS]
    assert [f.cluster for f in found] == [i.cluster for i in ITEMS]
    assert all(f.prompt != i.prompt for f, i in zip(found, ITEMS, strict=True))
    assert sorted(f.prompt for f in found) == sorted(i.prompt for i in ITEMS)
    assert found[2].pairs == ((0, 1, "p2 (mismatch)"),)
    assert companions(ITEMS, "mismatch", 0) == found
    assert companions(ITEMS[::-1], "mismatch", 0) == found[::-1]  # the order of the pairs has no part in it
    assert any(companions(ITEMS, "mismatch", seed) != found for seed in (1, 2, 3))


def test_foreign_is_the_own_chosen_response_against_anothers():
    found = companions(ITEMS, "foreign", 0)
    assert all(f.prompt == i.prompt and f.responses[0] == i.responses[0] for f, i in zip(found, ITEMS, strict=True))
    assert sorted(f.responses[1][0] for f in found) == [20, 21, 22, 23, 24]
    assert all(f.responses[1] != i.responses[0] for f, i in zip(found, ITEMS, strict=True))


def test_ties_are_two_responses_of_two_other_pairs_whatever_the_labels():
    found = companions(ITEMS, "ties", 0)
    for f, i in zip(found, ITEMS, strict=True):
        (a,), (b,) = f.responses
        assert f.prompt == i.prompt
        assert len({a % 10, b % 10, i.prompt[0] % 10}) == 3  # the pairs that they came from
    assert {r[0] // 10 for f in found for r in f.responses} == {2, 3}  # chosen and rejected ones
    assert companions(swapped(ITEMS), "ties", 0) == found


def test_siblings_get_siblings_of_one_other_prompt():
    items = [item(10 + i // 2, 20 + i, 30 + i, f"c{i // 2}", f"p{i}") for i in range(6)]
    found = companions(items, "foreign", 0)
    for k in (0, 2, 4):
        a, b = found[k].responses[1][0] - 20, found[k + 1].responses[1][0] - 20
        assert (a // 2, a % 2, b % 2) == (b // 2, 0, 1)
        assert a // 2 != k // 2


def test_responses_that_are_the_same_are_passed_over():
    items = [replace(i, responses=((20 + n // 3,), (30,))) for n, i in enumerate(ITEMS)]  # chosen: 20 20 20 21 21
    assert all(f.responses[0] != f.responses[1] for f in companions(items, "foreign", 0))
    assert all(f.responses[0] != f.responses[1] for f in companions(items, "ties", 0))
    with pytest.raises(UserError, match="foreign needs pairs with different chosen responses"):
        companions([replace(i, responses=((20,), (30,))) for i in ITEMS], "foreign", 0)
    with pytest.raises(UserError, match="mismatch needs pairs with different prompts"):
        companions([replace(i, prompt=(1,)) for i in ITEMS], "mismatch", 0)
    with pytest.raises(UserError, match="ties needs training pairs of at least 3 prompts, got 2"):
        companions(ITEMS[:2], "ties", 0)


# -- directions ------------------------------------------------------------------------------------------------------


def states(n=80, cue=1.0, right=1.0, noise=0.3, per_prompt=1):
    """d and d^mis of one layer in 6 dimensions: first a cue behind any prompt, second what is right."""
    g = torch.Generator().manual_seed(0)
    own, mis = noise * torch.randn(2, 1, n, 6, generator=g)
    sign = torch.randn(n, generator=g).sign()  # behind another prompt the right answer is right by chance
    own[..., 0] += cue
    mis[..., 0] += cue
    own[..., 1] += right
    mis[..., 1] += right * sign
    return own, mis, torch.arange(n) // per_prompt


def direction(name, own, mis, clusters, nuisance=None):
    return estimate_directions(own, torch.ones(1), MethodConfig(direction=name), 0, nuisance, clusters, mis)


def test_v_art_finds_a_cue_and_v_ctx_what_needs_the_prompt():
    own, mis, clusters = states()
    context, artifact, shared = (direction(n, own, mis, clusters).w[0] for n in ("context", "artifact", "shared"))
    assert artifact[0] > 0.97
    assert artifact[1].abs() < 0.2
    assert context[1] > 0.97
    assert context[0].abs() < 0.2
    assert shared[:2].min() > 0.6  # both


@pytest.mark.parametrize(("name", "cue", "right"), [("artifact", 1.0, 0.0), ("context", 0.0, 1.0)])
def test_each_orders_new_pairs_that_differ_in_its_own_alone(name, cue, right):
    w = direction(name, *states(n=400, per_prompt=2)).w[:, None]
    its_own, the_other = states(n=300, cue=cue, right=right)[0], states(n=300, cue=right, right=cue)[0]
    assert ((its_own * w).sum(-1) > 0).float().mean() > 0.99
    assert abs(float(((the_other * w).sum(-1) > 0).float().mean()) - 0.5) < 0.15


def test_a_prompt_has_no_part_in_its_own_scale_and_accuracy():
    """Golden values of three pairs: leaving out pair 2, whose difference is of the other sign, and the others."""
    own = torch.tensor([[[2.0, 0.0], [4.0, 0.0], [-6.0, 0.0]]])
    mis = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]])
    clusters = torch.arange(3)
    # d - d^mis = 1, 3, -5; without each: -1, -2, 2. So w is -1, -1, +1 and <d, w> = -2, -4, -6: none is right
    context = direction("context", own, mis, clusters)
    assert context.w.tolist() == [[-1.0, 0.0]]
    assert context.accuracy.tolist() == [0.0]
    assert float(context.scale) == pytest.approx(2.0)
    # d^mis = 1, 1, -1; without each: 0, 0, 1. <d, w> = 0, 0, -6: two ties
    artifact = direction("artifact", own, mis, clusters)
    assert artifact.w.tolist() == [[1.0, 0.0]]
    assert float(artifact.accuracy) == pytest.approx(1 / 3)


def test_swapped_labels_negate_both_and_nuisances_are_regressed_out():
    own, mis, clusters = states()
    z = torch.randn(80, 1, generator=torch.Generator().manual_seed(1))
    for name in ("context", "artifact"):
        plain, turned = direction(name, own, mis, clusters).w, direction(name, -own, -mis, clusters).w
        torch.testing.assert_close(plain, -turned)
        by_length = mis + 5.0 * (z + 1.0)[None] * torch.eye(6)[2] if name == "artifact" else mis
        longer = own + 5.0 * (z + 1.0)[None] * torch.eye(6)[2]
        assert direction(name, longer, by_length, clusters).w[0, 2].abs() > 0.5
        assert direction(name, longer, by_length, clusters, z + 1.0).w[0, 2].abs() < 0.2


@pytest.mark.parametrize("name", ["context", pytest.param("artifact", marks=pytest.mark.slow)])
def test_notes_see_the_direction_cross_fitted(name):
    own, mis, clusters = states()
    x = NoteInputs(own, clusters, torch.zeros(80), None, MethodConfig(direction=name), 0, mis)
    before = probe(x)
    changed = own.clone()
    changed[:, 6] *= -50.0
    assert probe(replace(x, d=changed))[6] == pytest.approx(-50.0 * float(before[6]), rel=1e-5)
    assert (before > 0).float().mean() > 0.9


def cued_pairs(n, cue=True):
    """The chosen response is "Clearly ..." behind any prompt (cue), or whatever it is by a coin (no cue)."""
    found = []
    for i in range(n):
        prompt = f"Question {(i * 37) % 100}: is {(i * 53) % 100} odd?\nAnswer:"
        good, bad = (" Clearly it is", " Maybe it is")[:: 1 if cue or i % 2 else -1]
        found.append(PreferencePair(prompt, good, bad, f"cued/{i}", "cued", "train", cluster_of(prompt)))
    return found


def test_on_a_model_a_cue_is_in_v_art_and_not_in_v_ctx(tmp_path):
    """Leave-one-prompt-out accuracy of both directions where the right response has a cue behind any prompt."""
    base = Base(build_model(), build_tokenizer(), "toy", "toy")
    found = {}
    for name in ("artifact-direction", "context-direction"):
        config = config_of(name, tmp_path, alpha=0.3, gamma=0.0)
        found[name] = prepare(config, base, cued_pairs(40)).method.directions
    assert (found["artifact-direction"].accuracy == 1.0).all()
    assert (found["context-direction"].accuracy < found["artifact-direction"].accuracy).any()
    overlap = (found["artifact-direction"].w * found["context-direction"].w).sum(1).abs()
    assert (overlap < 0.7).all()


# -- terms -----------------------------------------------------------------------------------------------------------


def outputs(logps, token_logps=None, token_states=None, n_tokens=None):
    n = torch.tensor(n_tokens or [1] * len(logps))
    return SequenceOutputs(torch.tensor(logps), n, None, token_states, None, token_logps)


def inputs(kind, companion, **method):
    logps = torch.tensor([-2.0, -2.0])
    own = PairOutputs(logps, logps, torch.tensor([1, 1]), torch.tensor([1, 1]))
    return TermInputs(own, own, None, IDENTITY, MethodConfig(**method), None, {kind: companion})


def test_terms_on_companions_by_hand():
    """Margins of (-1 + 4) - (-3 + 2) = 4 and (0) - (2) = -2 nats; beta 0.5."""
    policy, reference = outputs([-1.0, -3.0, -5.0, -4.0]), outputs([-4.0, -2.0, -5.0, -6.0])
    found = CompanionOutputs(policy, reference, torch.arange(4))
    assert found.margin.tolist() == [4.0, -2.0]
    assert mismatch.function(inputs("mismatch", found, beta=0.5)).tolist() == [4.0, 1.0]
    assert ties.function(inputs("ties", found, beta=0.5)).tolist() == [4.0, 1.0]
    expected = torch.tensor([math.log(1 + math.exp(-2.0)), math.log(1 + math.e)])
    torch.testing.assert_close(foreign.function(inputs("foreign", found, beta=0.5)), expected)


def test_anchors_by_hand():
    """Two texts of 2 tokens and 1, two layers with spreads 4 and 1."""
    moved = torch.tensor([[[2.0, 0.0], [0.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    # per token and layer: 4/4, 0, 16/4 and 1, 1, 0; the mean of layers: 1, .5, 2
    spread = torch.tensor([4.0, 1.0])
    assert relative_movement(moved, spread).tolist() == [1.0, 0.5, 2.0]
    log_ratio = torch.tensor([0.0, 1.0, -1.0])
    policy = outputs([0.0, 0.0], log_ratio - 1.0, moved + 3.0, [2, 1])
    reference = outputs([0.0, 0.0], torch.full((3,), -1.0), torch.full((2, 3, 2), 3.0), [2, 1])
    text = CompanionOutputs(policy, reference, torch.tensor([0, 0, 1]), spread)
    assert anchor_drift.function(inputs("anchor", text)).tolist() == [0.75, 2.0]
    expected = torch.tensor([(math.e - 2.0) / 2.0, math.exp(-1.0)])
    torch.testing.assert_close(anchor_kl.function(inputs("anchor", text)), expected)


def test_k3_is_the_divergence_where_the_reference_wrote_the_tokens():
    """Its mean under the reference, and the gradient of that mean, are those of KL(ref || pi) to float32."""
    ref = torch.tensor([0.5, 0.3, 0.2])
    logits = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    log_pi = logits.log_softmax(0)
    mean, exact = (ref * k3(log_pi - ref.log())).sum(), (ref * (ref.log() - log_pi)).sum()
    torch.testing.assert_close(mean, exact)
    torch.testing.assert_close(*(torch.autograd.grad(v, logits, retain_graph=True)[0] for v in (mean, exact)))
    assert (k3(torch.tensor([-3.0, -0.01, 0.01, 3.0])) > 0).all()


# -- texts -----------------------------------------------------------------------------------------------------------


def test_texts_of_every_source(tokenizer, tmp_path, items):
    tokens = PairTokenizer(tokenizer, 64, 64)
    path = tmp_path / "plain.txt"
    path.write_text("One day it rained.\nAll day.\n\n\n  Then the sun came.  \n\nx\n")
    assert paragraphs(path) == ["One day it rained.\nAll day.", "Then the sun came.", "x"]
    found, of_pair = anchor_items(str(path), items, tokens, DataConfig())
    texts = {tokenizer.decode([*f.prompt, *f.responses[0]]) for f in found}
    assert texts == {"One day it rained.\nAll day.", "Then the sun came."}  # one token alone predicts nothing
    assert of_pair == [i % 2 for i in range(len(items))]
    found, of_pair = anchor_items("sentences", items, tokens, DataConfig())
    assert of_pair == list(range(len(items)))
    assert len(set(sentences())) == 864
    assert anchor_items("sentences", items, tokens, DataConfig()) == (found, of_pair)
    assert anchor_items("sentences", items, tokens, DataConfig(seed=1)) != (found, of_pair)
    assert all(f.pairs == () and len(f.responses) == 1 and len(f.prompt) == 1 for f in found)


def test_self_is_the_training_texts_whatever_the_labels(tokenizer, items):
    tokens = PairTokenizer(tokenizer, 64, 64)
    found, _ = anchor_items("self", items, tokens, DataConfig())
    assert anchor_items("self", swapped(items), tokens, DataConfig())[0] == found
    own = {(i.prompt, r) for i in items for r in i.responses}
    assert {(f.prompt, f.responses[0]) for f in found} <= own
    found, _ = anchor_items("embedded:control", items, tokens, DataConfig())
    assert {len(f.responses) for f in found} == {1}


def test_texts_that_are_not_there(tokenizer, items, tmp_path):
    tokens = PairTokenizer(tokenizer, 64, 64)
    with pytest.raises(UserError, match=r"method\.anchor_data=.*none\.txt.* cannot be read as UTF-8 text"):
        anchor_items(str(tmp_path / "none.txt"), items, tokens, DataConfig())
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match=r"empty\.txt' has no text of at least two tokens"):
        anchor_items(str(tmp_path / "empty.txt"), items, tokens, DataConfig())
    with pytest.raises(UserError, match=r"method\.anchor_data must name a data set"):
        MethodConfig(anchor_data=" ")


def test_anchors_on_a_target_are_warned_of(base, tmp_path, caplog):
    for name, warned in (("embedded:shorter", True), ("sentences", False)):
        config = config_of("anchor-kl", tmp_path, anchor_data=name)
        caplog.clear()
        companion_items(
            replace(config, data=replace(config.data, dataset="embedded:longer")), base, ITEMS, "anchor", [0]
        )
        assert ("a target of embedded:longer, which is then no longer out" in caplog.text) == warned


# -- in training -----------------------------------------------------------------------------------------------------


@pytest.fixture
def base():
    return Base(build_model(), build_tokenizer(), "toy", "toy")


def config_of(method, tmp_path, **changes):
    config = default_run(method)
    data = replace(config.data, cache_dir=tmp_path / "cache", batch_size=6, micro_batch_tokens=10**6)
    training = replace(config.training, max_steps=2, lr=0.01, grad_share_steps=0)
    own = replace(config.method, layers="0,1", **changes)
    return replace(config, data=data, method=own, training=training, output_dir=tmp_path)


def trained(config, base, pairs=None):
    """The adapter's weights after a few steps, and what was prepared."""
    from innerpo.training.arguments import training_arguments

    prepared = prepare(config, base, pairs or make_pairs(18))
    with adapted(prepared, config) as (policy, method):
        trainer = PairTrainer(policy, training_arguments(config), method, prepared.pairs, compile="off")
        trainer.train()
        return torch.cat([p.detach().flatten() for p in policy.parameters() if p.requires_grad]), prepared


def test_with_weights_of_0_training_is_dpo_to_the_bit_and_no_companion_is_run(base, tmp_path, monkeypatch):
    passes = []
    real = trainer_module.sequence_outputs

    def counted(model, batch, states=None):
        passes.append(batch.n_sequences)
        return real(model, batch, states)

    monkeypatch.setattr(trainer_module, "sequence_outputs", counted)
    dpo, _ = trained(config_of("dpo", tmp_path), base)
    assert passes == [12] * 2
    zero = {"mismatch": 0.0, "foreign": 0.0}
    none, prepared = trained(config_of("mismatch-foreign", tmp_path, **zero), base)
    assert prepared.companions == {}
    assert torch.equal(dpo, none)
    assert passes == [12] * 4
    full, prepared = trained(config_of("mismatch-foreign", tmp_path), base)
    assert set(prepared.companions) == {"mismatch", "foreign"}
    assert passes == [12] * 10
    assert not torch.equal(dpo, full)


SLOW = pytest.mark.slow  # the same for other names: by their number, not by what they show


@pytest.mark.parametrize("name", ["anchor-drift", pytest.param("mismatch-ties", marks=SLOW)])
def test_micro_batches_change_nothing_but_the_last_bits(name, base, tmp_path):
    config = config_of(name, tmp_path)
    whole, prepared = trained(config, base)
    parts, _ = trained(replace(config, data=replace(config.data, micro_batch_tokens=150)), base)
    torch.testing.assert_close(whole, parts, atol=2e-4, rtol=0)
    pairs = replace(prepared.pairs, micro_batch_tokens=150)
    batches = pairs(list(range(6)))["micro_batches"]
    plain = replace(pairs, companions={})(list(range(6)))["micro_batches"]
    assert len(batches) > len(plain)  # companions take room
    for batch in batches:
        (further,) = batch.companions.values()
        assert further.tokens.n_sequences in (len(batch.ids), 2 * len(batch.ids))


def test_a_pair_takes_the_rows_of_its_companions(base, tmp_path):
    prepared = prepare(config_of("mismatch", tmp_path), base, make_pairs(18))
    further = prepared.companions
    own, other = prepared.items[3], further["mismatch"].item(3)
    lengths = [own.n_tokens, other.n_tokens]
    assert rows_with(own, 3, further, "one_row") == (2, max(lengths))
    assert rows_with(own, 3, further, "packed") == (1, sum(lengths))
    assert rows_with(own, 3, further, "concatenated") == (4, max(own.longest_sequence, other.longest_sequence))
    assert rows_with(own, 3, {}, "one_row") == (1, own.n_tokens)


def test_only_companions_of_pairs_that_are_trained_on_have_a_reference(base, tmp_path):
    config = config_of("mismatch", tmp_path)
    config = replace(config, training=replace(config.training, max_steps=1))
    prepared = prepare(config, base, make_pairs(18))
    found = prepared.companions["mismatch"]
    assert len(found.items) == 6
    assert sorted(found.of_pair) == [-1] * 12 + list(range(6))


def test_the_drift_of_anchors_needs_no_cached_states(base, tmp_path):
    """Above the limit of cached token states the reference runs at each step, with the same result."""
    config = config_of("anchor-drift", tmp_path)
    cached, _ = trained(config, base)
    again, prepared = trained(replace(config, data=replace(config.data, token_cache_gb=0.0)), base)
    assert prepared.companions["anchor"].reference.token_states is None
    torch.testing.assert_close(cached, again, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name", ["mismatch-foreign", "anchor-drift", *(pytest.param(n, marks=SLOW) for n in [*NAMES, *DIRECTIONS])]
)
def test_the_doctor_passes(name, base, tmp_path):
    config = config_of(name, tmp_path)
    config = replace(config, data=replace(config.data, dataset="embedded:longer", max_train_prompts=18))
    found = run_checks(config, base=base)
    assert found.failures == []
    labels = {term.name: term.labels for term in found.terms}
    assert {labels[n] for n in labels if n in ("mismatch", "ties", "anchor_drift", "anchor_kl")} <= {"same (expected)"}
    assert labels.get("foreign", "change (expected)") == "change (expected)"
    assert ("weight 0" in {what for what, _, _ in found.whole}) == (name not in DIRECTIONS)


def test_the_doctor_fails_for_a_term_that_is_not_0_at_the_reference(base, tmp_path, monkeypatch):
    from innerpo.methods.records import Term
    from innerpo.registry import TERMS

    def shifted(x):
        return (x.companions["mismatch"].margin - 1.0).square()

    monkeypatch.setitem(TERMS, "mismatch", Term(shifted, "logps", sees_labels=False, companions={"mismatch": "logps"}))
    config = config_of("mismatch", tmp_path)
    config = replace(config, data=replace(config.data, dataset="embedded:longer", max_train_prompts=18))
    faults = run_checks(config, base=base).failures
    assert any(f.startswith("mismatch: sees the labels, and should not") for f in faults)
    assert any(f.startswith("mismatch at the reference: 1.0e+00 from 0") for f in faults)
