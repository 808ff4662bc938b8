"""Where states are read: every site against a plain hook, in both layouts, under checkpointing, and in the cache."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from conftest import build_model, facts_of
from innerpo.cli.verbs import main
from innerpo.config.method import MethodConfig
from innerpo.config.model import ModelConfig
from innerpo.config.run import default_run
from innerpo.data.batching.batch import make_batch
from innerpo.errors import UserError
from innerpo.methods.inner_reward import InnerReward
from innerpo.model.forward.outputs import StateRequest, sequence_outputs
from innerpo.model.forward.sites import NAMED, read_points
from innerpo.model.reference import compute_reference
from innerpo.run import evaluate, train
from innerpo.training.directions_file import load_directions

LAYERS = (0, 2, 3)
# Each site written out: path in the block, and whether the input is read.
PLAIN = {
    "residual": ("", False),
    "attn_out": ("self_attn", False),
    "mlp_out": ("mlp", False),
    "o_proj_in": ("self_attn.o_proj", True),
    "down_proj_in": ("mlp.down_proj", True),
    "q_proj": ("self_attn.q_proj", False),
    "up_proj_in": ("mlp.up_proj", True),
    r"re:.*self_attn\.q_proj": ("self_attn.q_proj", False),
}


def with_adapter(model):
    torch.manual_seed(3)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()


def by_plain_hook(model, site, ids):
    """The states of one unpadded row, from hooks on the modules themselves."""
    path, before = PLAIN[site]
    found = {}
    handles = []
    for layer in LAYERS:
        module = model.model.layers[layer].get_submodule(path)

        def hook(_, args, output, layer=layer):
            state = args[0] if before else output
            found[layer] = state[0] if isinstance(state, tuple) else state

        handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return [found[layer][0] for layer in LAYERS]


@pytest.mark.parametrize("site", PLAIN)
@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_states_are_those_of_a_plain_hook(site, layout, items, family):
    model = build_model(family)
    with torch.no_grad():
        out = sequence_outputs(
            model, make_batch(items[:3], layout, 0), StateRequest(LAYERS, token_states=True, site=site)
        )
    row = token = 0
    for item in items[:3]:
        for response in item.responses:
            states = by_plain_hook(model, site, torch.tensor([[*item.prompt, *response]]))
            for i, h in enumerate(states):
                h = h[len(item.prompt) :]
                u = h / h.square().mean(-1, keepdim=True).sqrt()
                torch.testing.assert_close(out.pooled[i, row], u.mean(0), atol=2e-5, rtol=1e-3)
                torch.testing.assert_close(out.token_states[i, token : token + len(u)], u, atol=1e-4, rtol=1e-3)
            row, token = row + 1, token + len(response)
    width = {"down_proj_in": 48}.get(site, 32)
    assert out.pooled.shape == (len(LAYERS), 6, width)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def gradients(policy, batch, request):
    policy.zero_grad()
    out = sequence_outputs(policy, batch, request)
    target = torch.linspace(-1.0, 1.0, out.pooled.numel()).reshape(out.pooled.shape)
    ((out.pooled * target).sum() + out.token_states.square().mul(target[:, :1]).sum() + out.logps.sum() / 10).backward()
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize("site", ["residual", *NAMED, "q_proj"])
@pytest.mark.parametrize("layout", ["one_row", "concatenated"])
def test_checkpointing_changes_no_gradient(site, layout, items, family):
    policy = with_adapter(build_model(family)).train()
    batch, request = make_batch(items[:4], layout, 0), StateRequest(LAYERS, token_states=True, site=site)
    plain = gradients(policy, batch, request)
    model = policy.base_model.model
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    assert any(getattr(m, "gradient_checkpointing", False) for m in policy.modules())
    checkpointed = gradients(policy, batch, request)
    assert plain.keys() == checkpointed.keys()
    assert max(((checkpointed[n] - plain[n]).norm() / plain[n].norm()).item() for n in plain) < 1e-5


@pytest.mark.parametrize("site", ["residual", *NAMED])
def test_the_states_alone_send_the_same_gradient_under_checkpointing(site, items):
    """Without the output term the backward pass enters the blocks only through what the hooks kept."""
    policy = with_adapter(build_model()).train()
    batch, request = make_batch(items[:4], "one_row", 0), StateRequest((1,), site=site)
    found = []
    for _ in range(2):
        policy.zero_grad()
        out = sequence_outputs(policy, batch, request)
        (out.pooled * torch.linspace(-1.0, 1.0, out.pooled.shape[-1])).sum().backward()
        found.append({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})
        model = policy.base_model.model
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)(
            {"use_reentrant": False}
        )
    plain, checkpointed = found
    assert any(g.norm() > 0 for n, g in plain.items() if "layers.1." in n)
    for n, g in plain.items():
        torch.testing.assert_close(checkpointed.get(n, torch.zeros_like(g)), g, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("site", ["residual", *NAMED])
def test_an_adapted_model_has_the_same_sites(site, items):
    """The adapter renames modules within; a site is still one module a block, read with the adapter's part."""
    batch, request = make_batch(items[:2], "one_row", 0), StateRequest(LAYERS, site=site)
    plain, policy = build_model(), with_adapter(build_model())
    with torch.no_grad():
        base, changed = (sequence_outputs(m, batch, request).pooled for m in (plain, policy))
        with policy.disable_adapter():
            off = sequence_outputs(policy, batch, request).pooled
    torch.testing.assert_close(off, base)
    assert not torch.allclose(changed, base, atol=1e-2)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("atn_out", r"'atn_out' fits no module of block 0; did you mean 'attn_out'.*there are residual, attn_out"),
        ("q_prj", r"did you mean 'self_attn.q_proj'|'q_prj' fits no module.*self_attn\.q_proj"),
        ("norm", "fits no module"),
        ("proj", "fits no module"),
        ("re:.*_proj", r"fits 7 modules of block 0 \(self_attn.q_proj, .*\); name one"),
        ("re:nothing", r"'re:nothing' fits no module of block 0; there are residual"),
        ("re:(", "is not a regular expression"),
        ("_in", "fits no module"),
        ("", "fits no module"),
    ],
)
def test_a_wrong_site_is_one_line_that_says_what_there_is(site, message):
    with pytest.raises(UserError, match=message) as error:
        read_points(build_model(), LAYERS, site)
    assert "\n" not in str(error.value)


def test_a_module_without_one_vector_a_token_is_refused(items):
    with pytest.raises(UserError, match=r"block 0 of \w+ has states of shape .* not one vector a token"):
        sequence_outputs(build_model("qwen"), make_batch(items[:1], "one_row", 0), StateRequest((0,), site="q_norm"))


def test_supr_wants_the_residual_stream():
    with pytest.raises(UserError, match=r"supr needs method\.site=residual .*, not mlp_out"):
        MethodConfig(transform="supr", site="mlp_out")


@pytest.mark.parametrize("site", ["attn_out", "down_proj_in"])
def test_the_reference_of_another_site_is_another(site, toy, items, tmp_path):
    def run(where, **options):
        request = StateRequest((1, 3), token_states=True, site=where)
        return compute_reference(
            toy, items, "one_row", request, batch_size=4, cache_dir=tmp_path, what="toy", **options
        )

    assert run("residual").computed
    first = run(site)
    assert first.computed
    assert not run(site).computed
    assert not run("residual").computed
    with torch.no_grad():
        expected = sequence_outputs(
            toy.model, make_batch(items[:3], "one_row", 0), StateRequest((1, 3), token_states=True, site=site)
        )
    got = first.select([0, 1, 2])
    torch.testing.assert_close(got.pooled, expected.pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.token_states, expected.token_states, atol=1e-5, rtol=1e-5)
    u = first.token_states.double()
    spread = (u - u.mean(0)).square().sum(-1).mean(0)
    torch.testing.assert_close(first.token_spread.double(), spread, rtol=1e-5, atol=1e-5)
    # 4 bytes, two layers, the site's own width
    size = sum(len(r) for i in items for r in i.responses) * 4 * 2 * expected.pooled.shape[2]
    assert run(site, token_limit_bytes=float(size)).token_states is not None
    assert run(site, token_limit_bytes=size - 1.0).token_states is None


def toy_run(folder, tmp_path, name="innerpo", **method):
    config = default_run(name)
    return replace(
        config,
        method=replace(config.method, layers="1,2", **method),
        model=ModelConfig(base_model=str(folder), lora_r=4, dtype="float32"),
        data=replace(config.data, dataset="embedded:longer", max_train_prompts=16, cache_dir=tmp_path / "cache"),
        training=replace(config.training, max_steps=2, lr=5e-3, save_steps=0, grad_share_steps=0),
        eval=replace(config.eval, max_prompts=4),
        output_dir=tmp_path,
    )


@pytest.mark.parametrize(("site", "method"), [("down_proj_in", {"transform": "svd"}), ("attn_out", {"angle": 0.1})])
def test_a_run_trains_and_is_scored_at_its_site(toy_folder, tmp_path, site, method, monkeypatch):
    config = toy_run(toy_folder, tmp_path, site=site, **method)
    config = replace(config, training=replace(config.training, gradient_checkpointing=True))
    result = train(config)
    assert load_directions(result.folder).site == site
    asked = []
    request = InnerReward.request.fget
    monkeypatch.setattr(InnerReward, "request", property(lambda s: asked.append(s.site) or request(s)))
    again = evaluate(result.folder, config)
    assert set(asked) == {site}
    for column in ("inner", "logp"):
        assert facts_of(result, column=column) == pytest.approx(facts_of(again, column=column), abs=1e-4)


def test_a_wrong_site_ends_the_command_in_one_line(toy_folder, tmp_path, capsys):
    code = main(
        [
            *("train", "innerpo", f"--model.base-model={toy_folder}", "--data.dataset=embedded:longer", "--eval.skip"),
            *(f"--data.cache-dir={tmp_path / 'cache'}", f"--output-dir={tmp_path}", "--method.site=mpl_out"),
        ]
    )
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert "did you mean 'mlp_out'" in said[-1]
    assert not list(tmp_path.glob("innerpo*"))
