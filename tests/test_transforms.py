"""Transforms: orthonormal, frozen, seeded, saved; each does what its page claims, against dense references here."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import innerpo.methods.transforms.ether as ether_module
import innerpo.methods.transforms.hra as hra_module
from conftest import build_model, facts_of, make_pairs, noisy_siblings
from innerpo.config.method import LEARNED as LEARNED_ON_LABELS
from innerpo.config.method import MethodConfig
from innerpo.config.run import default_run
from innerpo.config.transform import TransformConfig
from innerpo.data.batching.batch import make_batch
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError
from innerpo.methods.directions.estimate import estimate_directions
from innerpo.methods.generators import generator_for
from innerpo.methods.method import build_method, fit_method
from innerpo.methods.records import PairOutputs
from innerpo.methods.terms.inner import margin
from innerpo.methods.transforms.reflections import reflect, reflect_blocks
from innerpo.methods.transforms.subspace_fit import learn_basis, split_pairs, subspace_losses
from innerpo.methods.transforms.transform import FitInputs, Transform
from innerpo.model.base import Base
from innerpo.model.forward.unembedding import Unembedding, block_states, final_norm
from innerpo.model.reference import compute_reference
from innerpo.registry import TRANSFORMS, resolve
from innerpo.run import evaluate, train
from innerpo.training.directions_file import load_directions

H, RANK, LAYERS = 32, 8, (0, 2)
FITTED = [name for name in TRANSFORMS if name != "none"]
LEARNED = ("ether", "ortho", "hra")
ROTATING = [name for name in FITTED if name != "supr"]  # those that may keep all H dimensions

CASES = [(name, {}) for name in TRANSFORMS] + [
    ("supr", {"supr_mode": "suppressed"}),
    ("svd", {"svd_end": "bottom"}),
    ("ether", {"ether_blocks": 1, "reflections": 1}),
    ("ether", {"ether_blocks": 8, "reflections": 3}),
    ("hra", {"reflections": 40}),  # more than there are dimensions
]
case = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{'-'.join(map(str, o))}" for n, o in CASES])


def toy_of(family, **changes):
    """A toy model whose final norm is not trivial (a fresh one has gain 1 everywhere)."""
    model = build_model(family, **changes).requires_grad_(False)
    torch.nn.init.normal_(final_norm(model).weight, mean=0.5, std=0.3)
    return model


def method_config(name, **options):
    return MethodConfig(
        transform=name,
        subspace=TransformConfig(**({"rank": float(RANK), "supr_k": float(RANK), "fit_steps": 25} | options)),
    )


@pytest.fixture
def fit_on(tmp_path, tokenizer):
    """Fit a transform as a run does; return (method, reference, model, items)."""

    def run(name, model=None, seed=1, layout="one_row", n_pairs=12, **options):
        model = toy_of("llama") if model is None else model
        base = Base(model, tokenizer, "toy", f"toy-{id(model)}")
        items = PairTokenizer(base.tokenizer, 64, 64).training_items(make_pairs(n_pairs))
        method = build_method(method_config(name, **options), LAYERS)
        where = {"batch_size": 4, "cache_dir": tmp_path, "what": "toy"}
        reference = compute_reference(base, items, layout, method.request, **where)
        return fit_method(method, reference, model, seed, layout, base.pad_id), reference, model, items

    return run


def orthonormal(rows):
    return (rows @ rows.transpose(1, 2) - torch.eye(rows.shape[1])).abs().max().item()


# -- what holds for every transform --------------------------------------------------------------------------------


@case
@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_rows_are_orthonormal_and_of_the_rank_asked_for(fit_on, name, options, layout):
    transform = fit_on(name, layout=layout, **options)[0].transform
    assert transform.name == name
    if name == "none":
        assert transform.basis is None
        return
    rows = transform.basis
    kept = H - RANK if name == "supr" and options.get("supr_mode", "null") == "null" else RANK
    assert rows.shape == (len(LAYERS), kept, H)
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    assert rows.grad_fn is None
    assert orthonormal(rows) < 1e-5
    projector = rows.transpose(1, 2) @ rows
    torch.testing.assert_close(projector @ projector, projector, atol=1e-5, rtol=0)
    states = torch.randn(len(LAYERS), 5, H)
    torch.testing.assert_close(transform.lift(transform(states)), states @ projector, atol=1e-5, rtol=1e-5)


@case
def test_works_for_every_family_and_leaves_the_model_alone(fit_on, name, options, family):
    model = toy_of(family)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    method, _, _, _ = fit_on(name, model, **options)
    assert method.directions is not None
    assert torch.isfinite(method.directions.w).all()
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not model.training
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks


@case
def test_the_seed_decides(fit_on, name, options):
    model = toy_of("llama")
    torch.manual_seed(5)
    one = fit_on(name, model, **options)[0].transform.basis
    after = torch.rand(1)
    torch.manual_seed(6)
    same = fit_on(name, model, **options)[0].transform.basis
    other = fit_on(name, model, seed=2, **options)[0].transform.basis
    if name == "none":
        return
    assert torch.equal(one, same)
    assert not torch.equal(after, torch.rand(1))  # the global generator went on as if nothing had been fitted
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    if name in ("random", *LEARNED):
        assert not torch.allclose(one, other, atol=1e-3)
    else:
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FITTED)
def test_which_transforms_see_labels(fit_on, name):
    """All labels swapped: the same subspace (to rounding). One label of two swapped: only learned rows change."""
    _, reference, model, items = fit_on("none")
    inputs = FitInputs(reference.pooled, LAYERS, model, 1, items, "one_row", 0)
    swapped = reference.pooled.unflatten(1, (-1, 2)).flip(2)
    half = torch.where(torch.arange(12)[:, None, None] % 2 == 0, swapped, reference.pooled.unflatten(1, (-1, 2)))

    def projector(pooled):
        rows = resolve(TRANSFORMS, name, "t")(replace(inputs, pooled=pooled), method_config(name)).basis
        return rows.transpose(1, 2) @ rows

    plain = projector(reference.pooled)
    torch.testing.assert_close(projector(swapped.flatten(1, 2)), plain, atol=1e-4, rtol=0)
    seen = not torch.allclose(projector(half.flatten(1, 2)), plain, atol=1e-3)
    assert seen == (name in LEARNED)
    assert set(LEARNED) == set(LEARNED_ON_LABELS)  # which methods with notes refuse


@pytest.mark.parametrize("direction", ["shared", "pair", "mix"])
@pytest.mark.parametrize("name", ROTATING)
def test_a_full_rank_rotation_changes_no_term(fit_on, name, direction):
    """margin, angle, drift and separation of random records, through Method.loss."""
    transform = fit_on(name, rank=float(H))[0].transform
    assert transform.basis.shape[1] == H
    generator = torch.Generator().manual_seed(3)
    n, tokens = 6, 4

    def outputs():
        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        count = torch.full((n,), tokens)
        sequence = torch.arange(2 * n).repeat_interleave(tokens)
        states = [draw(2, n, H) for _ in range(2)]
        return PairOutputs(draw(n) - 9, draw(n) - 9, count, count, *states, draw(2, len(sequence), H), sequence)

    policy, reference = outputs(), outputs()
    config = MethodConfig(direction=direction, angle=0.3, separation=0.2, gamma=0.5)
    method = build_method(config, LAYERS)

    def loss(through):
        p, r = (
            replace(x, chosen_states=through(x.chosen_states), rejected_states=through(x.rejected_states))
            for x in (policy, reference)
        )
        fitted = estimate_directions(r.difference, torch.full((2,), 7.0), config, 0)
        with_all = replace(method, transform=through, directions=fitted.to(torch.device("cpu")))
        doubled = {f: getattr(fitted, f).double() for f in ("w", "scale", "layer_weights", "accuracy", "token_spread")}
        return replace(with_all, directions=replace(fitted, **doubled)).loss(p, r)

    plain, rotated = loss(Transform("none")), loss(transform)
    assert set(plain.terms) >= {"inner", "angle", "drift", "separation"}
    for term, value in plain.terms.items():
        torch.testing.assert_close(rotated.terms[term], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotated.metrics["inner_margin"], plain.metrics["inner_margin"], rtol=1e-4, atol=1e-5)


def run_config(toy_folder, tmp_path, name, **options):
    config = default_run("innerpo")
    return replace(
        config,
        method=replace(config.method, layers="0,2", transform=name, subspace=method_config(name, **options).subspace),
        model=replace(config.model, base_model=str(toy_folder), lora_r=2),
        data=replace(config.data, dataset="embedded:longer", max_train_prompts=12, cache_dir=tmp_path / "cache"),
        training=replace(config.training, lr=1e-2, save_steps=0, max_steps=2),
        eval=replace(config.eval, max_prompts=4),
        output_dir=tmp_path / "outputs",
    )


@pytest.mark.parametrize(("name", "options"), CASES[: len(TRANSFORMS) + 1])
def test_training_moves_no_row_and_a_saved_run_scores_the_same(
    toy_folder, tmp_path, monkeypatch, caplog, name, options
):
    """The rows that training used, those it left behind and those on disk are one; so are the scores."""
    caplog.set_level("INFO")
    seen = []

    def fit_and_keep(*args):
        fitted = fit_method(*args)
        rows = fitted.transform.basis
        seen.append((fitted.transform, None if rows is None else rows.clone()))
        return fitted

    monkeypatch.setattr("innerpo.training.prepare.fit_method", fit_and_keep)
    result = train(run_config(toy_folder, tmp_path, name, **options))
    ((transform, at_first),) = seen
    saved = load_directions(result.folder).transform
    assert saved.name == name
    if name != "none":
        assert torch.equal(transform.basis, at_first)
        assert transform.basis.grad is None
        assert torch.equal(saved.basis, at_first)
    again = evaluate(result.folder, run_config(toy_folder, tmp_path, name, **options))
    assert again.scores.responses.equals(result.scores.responses)
    assert set(facts_of(result, column="model")) == {"base", f"innerpo-{name}"}
    assert not result.scores.responses["inner"].is_nan().any()
    if name in LEARNED:
        assert f"transform {name}: rank 8 of 32; held-back subspace fit loss at blocks 0 (" in caplog.text


def test_gradient_reaches_states_and_no_row(fit_on):
    """Even where a caller asks for gradients, rows are no leaf of the loss that anything updates."""
    method, reference, _, _ = fit_on("ortho")
    states = reference.pooled.clone().requires_grad_()
    out = method.transform(states).square().sum()
    out.backward()
    assert states.grad.abs().sum() > 0
    assert method.transform.basis.grad is None


# -- supr ------------------------------------------------------------------------------------------------------------

HEADS = [("llama", False), ("llama", True), ("qwen", False), ("qwen", True), ("gemma", True), ("gemma", False)]


@pytest.mark.parametrize(("kind", "tied"), HEADS)
def test_supr_null_keeps_nothing_along_the_removed_directions(fit_on, kind, tied):
    model = toy_of(kind, tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    method, reference, _, _ = fit_on("supr", model)
    gain = model.model.norm.weight.double() + (1.0 if kind == "gemma" else 0.0)
    right = torch.linalg.svd(model.lm_head.weight.double() * gain)[2]
    rows = method.transform.basis.double()
    assert (rows @ right[:RANK].T).abs().max() < 1e-5
    states = method.transform.lift(method.transform(reference.pooled)).double()
    assert states.norm(dim=-1).min() > 1.0
    assert (states @ right[:RANK].T).abs().max() < 1e-5
    # nothing else is lost
    torch.testing.assert_close(states @ right[RANK:].T, reference.pooled.double() @ right[RANK:].T, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "tied"), HEADS)
@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_supr_suppressed_keeps_nothing_outside_the_kept_directions(fit_on, kind, tied, layout):
    model = toy_of(kind, tie_word_embeddings=tied)
    method, reference, _, items = fit_on("supr", model, layout=layout, supr_mode="suppressed")
    weight = model.lm_head.weight.double()
    for i, layer in enumerate(LAYERS):
        vectors = []
        for item in items:
            for response in item.responses:
                with torch.no_grad():
                    ids = torch.tensor([[*item.prompt, *response]])
                    hidden = model(ids, output_hidden_states=True).hidden_states
                    lens = [
                        model.model.norm(hidden[j][0, -len(response) :]).double() @ weight.T for j in (layer, layer + 1)
                    ]
                vectors.append((lens[1] - lens[0]).clamp(max=0.0) @ weight)
        right = torch.linalg.svd(torch.cat(vectors))[2]
        states = method.transform.lift(method.transform(reference.pooled))[i].double()
        size = states.norm(dim=-1, keepdim=True)
        assert size.min() > 0.1
        assert (states / size @ right[RANK:].T).abs().max() < 1e-5
        torch.testing.assert_close(
            states @ right[:RANK].T, reference.pooled[i].double() @ right[:RANK].T, atol=1e-4, rtol=0
        )


def test_final_norm_and_block_states_are_the_models_own(family, items):
    """norm(state after the last block) is what the model hands to its head; block l ends where l + 1 begins."""
    model = toy_of(family)
    batch = make_batch(items[:3], "concatenated", 0)
    states = block_states(model, batch, (0, 1, 2, 3))
    with torch.no_grad():
        last = model.model(batch.input_ids, attention_mask=(batch.segments >= 0).long()).last_hidden_state
        expected = last.flatten(0, 1)[batch.completion]
        torch.testing.assert_close(Unembedding.of(model).norm(states[3][1]), expected, atol=1e-5, rtol=1e-5)
    for before, after in pairwise(states):
        assert torch.equal(before[1], after[0])


def test_gram_of_a_norm_that_subtracts_the_mean():
    """GPT-2's LayerNorm: the logits of a state do not see its mean, and neither does the Gram matrix."""
    norm = torch.nn.LayerNorm(H)
    torch.nn.init.normal_(norm.weight, 1.0, 0.3)
    torch.nn.init.normal_(norm.bias)
    weight = torch.randn(50, H)
    found = Unembedding(weight, norm).gram()
    centre = torch.eye(H, dtype=torch.float64) - 1.0 / H
    dense = (weight.double() * norm.weight.detach().double()) @ centre
    torch.testing.assert_close(found, dense.T @ dense, rtol=1e-4, atol=1e-4)


def test_gpt2_has_a_final_norm_too():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16)).eval()
    assert final_norm(model) is model.transformer.ln_f


def test_supr_samples_few_pairs(fit_on, monkeypatch):
    import innerpo.methods.transforms.supr as supr

    _, reference, model, items = fit_on("none")
    inputs = FitInputs(reference.pooled, LAYERS, model, 3, items, "one_row", 0)
    monkeypatch.setattr(supr, "MAX_PAIRS", 5)
    few = supr.sample_pairs(inputs)
    assert len(set(few)) == 5
    assert few == supr.sample_pairs(inputs) != supr.sample_pairs(replace(inputs, seed=4))
    monkeypatch.setattr(supr, "MAX_TOKENS", 1)
    assert supr.sample_pairs(inputs) == few[:1]


# -- reflections -----------------------------------------------------------------------------------------------------


def dense_reflection(v):
    """I - 2 v v^T / |v|^2, written out."""
    return torch.eye(len(v), dtype=v.dtype) - 2.0 * torch.outer(v, v) / v.dot(v)


def test_a_reflection_twice_is_the_identity():
    x, v = torch.randn(3, 5, 12, dtype=torch.float64), torch.randn(3, 12, dtype=torch.float64)
    once = reflect(x, v)
    assert not torch.allclose(once, x)
    torch.testing.assert_close(reflect(once, v), x)
    torch.testing.assert_close(reflect(x, 100.0 * v), once)
    blocks = torch.randn(3, 4, 3, dtype=torch.float64)
    for interleaved in (False, True):
        once = reflect_blocks(x, blocks, interleaved)
        assert not torch.allclose(once, x)
        torch.testing.assert_close(reflect_blocks(once, blocks, interleaved), x)


def test_hra_equals_a_dense_chain():
    v = torch.randn(2, 5, 12, dtype=torch.float64)
    found = hra_module.ReflectionChain(v, 4)()
    for layer in range(2):
        dense = torch.linalg.multi_dot([dense_reflection(v[layer, j]) for j in range(5)])
        torch.testing.assert_close(found[layer], dense[:4])


def test_ether_equals_a_dense_product_of_block_reflections():
    v = torch.randn(2, 3, 4, 3, dtype=torch.float64)  # layer, reflection, block, width
    found = ether_module.BlockReflections(v, 5)()
    spread = torch.arange(12).reshape(3, 4).T.flatten()  # 0 4 8, 1 5 9, ...: the coordinates of each interleaved block
    for layer in range(2):
        dense = torch.eye(12, dtype=torch.float64)
        for j in range(3):
            factor = torch.block_diag(*(dense_reflection(v[layer, j, b]) for b in range(4)))
            if j % 2 == 0:
                scattered = torch.zeros_like(factor)
                scattered[spread[:, None], spread[None, :]] = factor
                factor = scattered
            dense = dense @ factor
        torch.testing.assert_close(found[layer], dense[:5])


def test_the_first_rows_of_ether_read_every_coordinate():
    v = torch.randn(1, 2, 4, 8, dtype=torch.float64)
    assert (ether_module.BlockReflections(v, 2)()[0].detach().abs().sum(0) > 1e-6).all()


# -- svd -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["top", "bottom"])
@pytest.mark.parametrize("n", [12, 50])  # fewer and more pairs than dimensions
def test_svd_is_the_principal_subspace_of_the_differences(end, n):
    pooled = torch.randn(2, 2 * n, H) * torch.linspace(0.5, 2.0, H)
    inputs = FitInputs(pooled, LAYERS, None, 0)
    rows = resolve(TRANSFORMS, "svd", "transform")(inputs, method_config("svd", svd_end=end)).basis
    for layer in range(2):
        right = torch.linalg.svd(inputs.differences[layer], full_matrices=False)[2]
        expected = right[:RANK] if end == "top" else right.flip(0)[:RANK]
        cosines = (rows[layer].double() * expected).sum(1).abs()
        torch.testing.assert_close(cosines, torch.ones(RANK, dtype=torch.float64), atol=1e-4, rtol=0)


# -- the subspace fit --------------------------------------------------------------------------------------------------


def synthetic(n, seed=0, hidden=64, signal=4):
    """Differences with a mean only inside a few dimensions, in noise that differs by direction (no axis is special)."""
    g = torch.Generator().manual_seed(17)
    inside = torch.linalg.qr(torch.randn(2, hidden, signal, generator=g))[0]
    turn = torch.linalg.qr(torch.randn(hidden, hidden, generator=g))[0]
    g.manual_seed(seed)
    noise = (torch.randn(2, n, hidden, generator=g) * torch.linspace(0.2, 2.0, hidden)) @ turn
    d = (1.0 + torch.randn(2, n, signal, generator=g)) @ inside.transpose(1, 2) + noise
    pooled = torch.zeros(2, 2 * n, hidden)
    pooled[:, 0::2] = d
    return FitInputs(pooled, LAYERS, None, 0)


def held_out_accuracy(transform, train, test):
    """How often the training pairs' mean direction, seen through the transform, orders unseen pairs."""
    rows = transform.basis.double()
    w = (train.differences @ rows.transpose(1, 2)).mean(1, keepdim=True)
    return ((test.differences @ rows.transpose(1, 2) * w).sum(-1) > 0).double().mean().item()


@pytest.mark.parametrize("name", LEARNED)
def test_learned_rows_beat_a_random_subspace_of_the_same_rank(name):
    train, test = synthetic(200), synthetic(1000, seed=1)
    config = method_config(name)
    learned = resolve(TRANSFORMS, name, "transform")(train, config)
    untrained = resolve(TRANSFORMS, name, "transform")(train, method_config(name, fit_steps=0))
    random = [
        held_out_accuracy(resolve(TRANSFORMS, "random", "t")(replace(train, seed=s), config), train, test)
        for s in range(5)
    ]
    found = held_out_accuracy(learned, train, test)
    assert found > max(random) + 0.05
    assert found > held_out_accuracy(untrained, train, test) + 0.03


def test_subspace_fit_by_hand():
    """z = 3, 1, 2 along one axis: every left-out mean points up, std 1, so softplus(-3), softplus(-1), softplus(-2)."""
    d = torch.zeros(1, 3, 2, dtype=torch.float64)
    d[0, :, 0] = torch.tensor([3.0, 1.0, 2.0])
    rows = torch.eye(2, dtype=torch.float64)[None]
    own, other = subspace_losses(rows, d, -d[:, :1], torch.arange(3))
    expected = torch.nn.functional.softplus(torch.tensor([-3.0, -1.0, -2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(own, expected[:3].mean()[None], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other, expected[3:], rtol=1e-5, atol=1e-5)


def test_subspace_fit_sees_no_scale_and_no_rotation():
    d, held = synthetic(30).differences, synthetic(20, seed=1).differences
    rows = torch.linalg.qr(torch.randn(2, 64, RANK, dtype=torch.float64))[0].transpose(1, 2)
    turn = torch.linalg.qr(torch.randn(RANK, RANK, dtype=torch.float64))[0]
    expected = subspace_losses(rows, d, held, torch.arange(30))
    for other in (turn @ rows, 100.0 * rows):
        found = subspace_losses(other, d, held, torch.arange(30))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_subspace_fit_is_finite_for_pairs_without_difference():
    inputs = FitInputs(torch.ones(2, 20, H), LAYERS, None, 0)
    for name in LEARNED:
        rows = resolve(TRANSFORMS, name, "transform")(inputs, method_config(name)).basis
        assert orthonormal(rows) < 1e-5


@pytest.mark.parametrize("sizes", [[1] * 30, [3] * 10, [4, 1, 1, 1], [1, 1, 1, 30], [20, 20, 20, 20], [2, 7, 7]])
def test_subspace_fit_holds_back_whole_prompts(sizes):
    clusters = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    for seed in range(5):
        kept, held = split_pairs(clusters, torch.Generator().manual_seed(seed))
        assert sorted(kept + held) == list(range(sum(sizes)))
        assert held
        assert len(held) <= max(min(sizes), round(0.2 * sum(sizes)))
        kept_prompts, held_prompts = (set(clusters[part].tolist()) for part in (kept, held))
        assert len(kept_prompts) >= 2
        assert not kept_prompts & held_prompts


def test_subspace_fit_leaves_out_whole_prompts():
    """On noise the loss is E softplus(z), z standard normal; leaving out the pair alone finds its siblings' margin."""
    basis = torch.eye(8, dtype=torch.float64).expand(2, 8, 8)
    losses = {"by_prompt": [], "by_pair": []}
    for seed in range(10):
        d, clusters = noisy_siblings(100, seed=seed)
        for name, c in (("by_prompt", clusters), ("by_pair", torch.arange(300))):
            losses[name].append(subspace_losses(basis, d, d, c)[0].mean().item())
    by_prompt, by_pair = (sum(values) / 10 for values in losses.values())
    quantiles = torch.special.ndtri((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000)
    without_margin = torch.nn.functional.softplus(quantiles).mean().item()  # .806
    assert by_prompt == pytest.approx(without_margin, abs=0.02)
    assert by_pair < without_margin - 0.03, (by_pair, by_prompt)


def test_subspace_fit_keeps_its_start_where_nothing_general_is_learned():
    """Labels by chance: the held-back loss of the rows kept is never above that of the start."""
    inputs = FitInputs(torch.randn(2, 60, 64), LAYERS, None, 0)
    kept, held = split_pairs(inputs.clusters, inputs.generator("held-back prompts"))
    d = inputs.differences

    def held_back(rows):
        return subspace_losses(rows, d[:, kept], d[:, held], torch.arange(len(kept)))[1]

    v = torch.randn(2, 8, 64, dtype=torch.float64)
    start = held_back(hra_module.ReflectionChain(v.clone(), RANK)().detach())
    rows = learn_basis("hra", hra_module.ReflectionChain(v.clone(), RANK), inputs, TransformConfig())
    assert (held_back(rows) <= start).all()


# -- wrong options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rank": 0.0}, "rank must be a fraction .* got 0"),
        ({"rank": -3.0}, "rank must be a fraction .* got -3"),
        ({"rank": 1.5}, "rank must be .* or a whole number of directions, got 1.5"),
        ({"supr_k": 0.0}, "supr_k must be a fraction"),
        ({"rank": float("nan")}, "rank must be a finite number"),
        ({"reflections": 0}, "reflections must be at least 1, got 0"),
        ({"ether_blocks": 0}, "ether_blocks must be at least 1, got 0"),
        ({"fit_steps": -1}, "fit_steps must not be negative, got -1"),
        ({"fit_lr": 0.0}, "fit_lr must be above 0, got 0"),
    ],
)
def test_a_wrong_option_is_named(options, says):
    with pytest.raises(UserError, match=rf"method\.subspace\.{says}"):
        TransformConfig(**options)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("random", {"rank": 33.0}, "rank is 33, but the model's states have only 32"),
        ("supr", {"supr_k": 40.0}, "supr_k is 40, but the model's states have only 32"),
        ("supr", {"supr_k": 32.0}, "supr_k=32 drops all 32"),
        (
            "ether",
            {"ether_blocks": 5},
            "ether_blocks=5 does not divide the hidden size 32; these do: 1, 2, 4, 8, 16, 32",
        ),
        ("hra", {"n_pairs": 3}, "'hra' is learned and needs 4 training prompts, got 3"),
    ],
)
def test_an_option_that_does_not_fit_the_model(fit_on, name, options, says):
    with pytest.raises(UserError, match=says):
        fit_on(name, **options)


def test_suppressed_needs_tokens_enough(fit_on):
    with pytest.raises(
        UserError, match=r"supr_k=32 directions cannot be estimated from the \d+ completion tokens of 1 pairs"
    ):
        fit_on("supr", n_pairs=1, supr_mode="suppressed", supr_k=32.0)


@pytest.mark.parametrize(("rank", "rows"), [(0.25, 8), (0.5, 16), (0.001, 1), (1.0, 1), (5.0, 5), (32.0, 32)])
def test_rank_is_a_fraction_or_a_number(fit_on, rank, rows):
    assert fit_on("random", rank=rank)[0].transform.basis.shape[1] == rows


def test_margin_through_a_transform_is_that_of_the_lifted_direction(fit_on):
    """<Q x, w> = <x, Q^T w>: what the loss pulls on is a direction of the residual stream inside the subspace."""
    method, reference, _, _ = fit_on("random")
    d = reference.pooled[:, 0::2] - reference.pooled[:, 1::2]
    w = method.directions.w[:, None].expand(-1, d.shape[1], -1)
    scale, weights = method.directions.scale, method.directions.layer_weights
    inside = margin(method.transform(2 * d), method.transform(d), w, scale, weights)
    outside = margin(2 * d, d, method.transform.lift(w), scale, weights)
    torch.testing.assert_close(inside, outside, rtol=1e-4, atol=1e-4)


# -- random streams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "ortho"])
def test_random_direction_and_random_basis_are_independent(name):
    """Drawn from one stream, the direction lay half along the first coordinate of the states."""
    largest = []
    for seed in range(4):
        states = torch.randn(1, 8, 256, generator=torch.Generator().manual_seed(100 + seed))
        inputs = FitInputs(states, (0,), None, seed)
        config = replace(method_config(name, rank=64.0, fit_steps=0), direction="random")
        transform = resolve(TRANSFORMS, name, "transform")(inputs, config)
        states = transform(inputs.pooled)
        found = estimate_directions(states[:, 0::2] - states[:, 1::2], torch.ones(1), config, seed)
        largest.append(transform.lift(found.w[:, None]).abs().max().item())
    assert max(largest) < 0.35, largest  # of a random unit vector in 256 dimensions: about 0.2


def test_streams_differ_by_seed_and_by_name_and_repeat():
    def draw(*key):
        return torch.randn(4, generator=generator_for(*key))

    assert torch.equal(draw(1, "a"), draw(1, "a"))
    values = [draw(*key) for key in ((1, "a"), (1, "b"), (2, "a"), (12, "/a"), (1, "2/a"))]
    assert not any(torch.allclose(a, b) for i, a in enumerate(values) for b in values[:i])
