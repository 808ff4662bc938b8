"""Steering vectors: by hand, on a toy model, through `--eval.steer`, and as files that gguf and safetensors read."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from transformers import OPTConfig, OPTForCausalLM

from conftest import build_model
from innerpo.cli.verbs import main
from innerpo.config.run import default_run
from innerpo.data.batching.batch import make_batch
from innerpo.errors import UserError
from innerpo.evaluation.export import write_gguf
from innerpo.evaluation.facts import read_scores
from innerpo.methods.inner_reward import InnerReward
from innerpo.methods.records import Directions
from innerpo.methods.steering import steering_vector
from innerpo.methods.transforms.transform import IDENTITY, Transform
from innerpo.model.forward.blocks import decoder_blocks
from innerpo.model.forward.outputs import StateRequest, rms_normalise, sequence_outputs
from innerpo.model.steering import SteeringVector, steered
from innerpo.run import train
from innerpo.training.directions_file import load_directions


def directions(w, scale, weights, rms):
    half = torch.full((len(scale),), 0.5)
    return Directions(
        torch.tensor(w),
        torch.tensor(scale),
        torch.tensor(weights),
        half,
        half,
        0.0,
        None if rms is None else torch.tensor(rms),
    )


def test_a_vector_by_hand():
    """v_l = rms_l sigma_l Q_l^T w_l; the second of three blocks has no weight and does not steer."""
    found = directions([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], [0.5, 1.0, 2.0], [0.25, 0.0, 0.75], [4.0, 1.0, 10.0])
    rows = torch.zeros(3, 2, 3)
    rows[:, 0, 2] = rows[:, 1, 0] = 1.0  # Q picks the third and the first component
    vector = steering_vector(InnerReward((2, 5, 7), Transform("svd", rows), found))
    assert vector.blocks == (2, 7)
    torch.testing.assert_close(vector.vectors, torch.tensor([[0.0, 0.0, 2.0], [16.0, 0.0, 12.0]]))


@pytest.mark.parametrize(
    ("site", "rms", "says"), [("mlp_out", [1.0], "method.site=mlp_out"), ("residual", None, "have no token_rms")]
)
def test_directions_that_cannot_steer(site, rms, says):
    with pytest.raises(UserError, match=says):
        steering_vector(InnerReward((0,), IDENTITY, directions([[1.0]], [1.0], [1.0], rms), site=site))


@torch.no_grad()
def test_every_token_of_the_block_moves_by_the_vector(family, items):
    model = build_model(family)
    batch = make_batch(items[:3], "concatenated", 0)
    found = {}
    for n, block in enumerate(decoder_blocks(model)):
        block.register_forward_pre_hook(lambda _, args, n=n: found.update({n: args[0]}))

    def inputs_of_blocks():
        model(input_ids=batch.input_ids, attention_mask=(batch.segments >= 0).long())
        return dict(found)

    vector = SteeringVector((1,), torch.linspace(-1.0, 1.0, 32)[None])
    before = inputs_of_blocks()
    with steered(model, vector, 3.0):
        after = inputs_of_blocks()
    again = inputs_of_blocks()
    torch.testing.assert_close(after[1], before[1])
    torch.testing.assert_close(after[2], before[2] + 3.0 * vector.vectors)  # the output of block 1
    assert not torch.allclose(after[3], before[3], atol=1e-2)
    torch.testing.assert_close(again, before)
    with (
        pytest.raises(UserError, match="7 dimensions, the model's residual stream has 32"),
        steered(model, SteeringVector((1,), torch.zeros(1, 7)), 1.0),
    ):
        pass


def test_an_embedding_may_be_narrower_than_the_residual_stream():
    """As in facebook/opt-350m, which projects its embeddings up."""
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48, "num_hidden_layers": 2}
    model = OPTForCausalLM(OPTConfig(vocab_size=40, num_attention_heads=2, **sizes)).eval()
    ids, found = torch.tensor([[5, 6]]), []
    decoder_blocks(model)[1].register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        model(ids)
        with steered(model, SteeringVector((0,), torch.ones(1, 32)), 3.0):
            model(ids)
    assert found[1].shape == (1, 2, 32)
    torch.testing.assert_close(found[1], found[0] + 3.0)


@torch.no_grad()
def test_the_unit_is_one_standard_deviation(items):
    """To first order a coefficient c raises r = <w, s> / sigma by c times the mean of rms / rms of a token."""
    model = build_model()
    batch = make_batch(items[:4], "one_row", 0)
    request = StateRequest((2,))
    w = torch.nn.functional.normalize(torch.randn(1, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = sequence_outputs(model, batch, replace(request, token_states=True))
    known = Directions(w, torch.tensor([0.3]), torch.ones(1), torch.ones(1), torch.ones(1), 0.0, found.rms)
    score = InnerReward((2,), IDENTITY, known)
    c = 1e-2
    with steered(model, steering_vector(score), c):
        moved = sequence_outputs(model, batch, request)
    rise = score(moved.pooled) - score(found.pooled)
    h = model(
        input_ids=batch.input_ids[:1], position_ids=batch.position_ids[:1], output_hidden_states=True
    ).hidden_states[3][0]
    prompt_and_chosen = batch.completion[batch.sequence == 0]
    own = h[prompt_and_chosen]
    expected = (rms_normalise(own + c * 0.3 * found.rms * w) - rms_normalise(own)).mean(0) @ w[0] / 0.3
    assert rise[0].item() == pytest.approx(expected.item(), rel=1e-2)
    assert rise.mean().item() == pytest.approx(c, rel=0.15)


def toy_run(name, toy_folder, tmp_path, **evaluation):
    config = default_run(name)
    return replace(
        config,
        method=replace(config.method, layers="1,2"),
        model=replace(config.model, base_model=str(toy_folder), lora_r=4, dtype="float32"),
        data=replace(config.data, dataset="embedded:longer", max_train_prompts=12, cache_dir=tmp_path / "cache"),
        training=replace(config.training, max_steps=2, save_steps=0, grad_share_steps=0),
        eval=replace(config.eval, max_prompts=8, **evaluation),
        output_dir=tmp_path / "outputs",
    )


@pytest.mark.parametrize("name", ["probe", "innerpo-svd"])
def test_a_steered_row_stands_beside_the_adapter(name, toy_folder, tmp_path):
    config = toy_run(name, toy_folder, tmp_path, steer=2.0)
    result = train(config)
    facts = result.scores.responses
    models = facts.select("model", "strength").unique(maintain_order=True).rows()
    assert models == [("base", 0.0), (config.method_label, 1.0), ("steered 2", 0.0)]
    rows = {m: facts.filter(pl.col("model") == m, pl.col("set") == "test") for m, _ in models}
    chosen = pl.col("response") == 0
    inner = {m: r.filter(chosen)["inner"] for m, r in rows.items()}
    assert (inner["steered 2"] - inner["base"]).min() > 0.2
    assert rows["steered 2"]["logp"].to_list() != rows["base"]["logp"].to_list()
    assert "steered 2" in json.loads((result.folder / "headline.json").read_text())["mean_logp"]


def test_eval_steers_a_saved_run_from_either_side(toy_folder, tmp_path):
    """Minus the coefficient lowers what plus raises; a tiny one is the base."""
    folder = train(toy_run("innerpo-none", toy_folder, tmp_path, skip=True)).folder
    inner = {}
    for steer in ("2", "-2", "1e-6"):
        flags = [
            str(folder),
            f"--eval.steer={steer}",
            "--eval.max_prompts=8",
            "--eval.format=jsonl",
        ]
        assert main(["eval", *flags]) == 0
    for path in folder.glob("eval-*/scores.jsonl"):
        rows = read_scores(path.parent).responses.filter(pl.col("set") == "test", pl.col("response") == 0)
        at = {model: own["inner"].mean() for (model,), own in rows.group_by("model")}
        (steer,) = (model for model in at if model.startswith("steered"))
        inner[steer] = at[steer] - at["base"]
    assert set(inner) == {"steered 2", "steered -2", "steered 1e-06"}
    assert inner["steered 2"] > 0.5
    assert inner["steered -2"] < -0.5
    assert abs(inner["steered 1e-06"]) < 1e-4


def test_export_is_read_by_gguf_and_safetensors(toy_folder, tmp_path, capsys):
    folder = train(toy_run("innerpo-ether", toy_folder, tmp_path, skip=True)).folder
    assert main(["export", str(folder)]) == 0
    assert main(["export", str(folder), "--format=gguf", f"--out={tmp_path / 'vector.gguf'}"]) == 0
    assert "steering vector of blocks" in capsys.readouterr().err
    vector = steering_vector(load_directions(folder))
    plain = load_file(folder / "steering.safetensors")
    assert set(plain) == {f"direction.{b}" for b in vector.blocks}
    reader = GGUFReader(tmp_path / "vector.gguf")
    text = {
        n: str(bytes(reader.fields[n].parts[-1]), "utf8") for n in ("general.architecture", "controlvector.model_hint")
    }
    assert text == {"general.architecture": "controlvector", "controlvector.model_hint": "llama"}
    assert int(reader.fields["controlvector.layer_count"].parts[-1][0]) == len(vector.blocks)
    tensors = {t.name: torch.tensor(t.data) for t in reader.tensors}
    for block, expected in zip(vector.blocks, vector.vectors, strict=True):
        torch.testing.assert_close(plain[f"direction.{block}"], expected)
        torch.testing.assert_close(tensors[f"direction.{block}"], expected)
    assert not [p for p in [*folder.iterdir(), *tmp_path.iterdir()] if p.name.startswith(".")]


@torch.no_grad()
def test_repeng_reads_the_file_and_steers_alike(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="repeng needs scikit-learn")
    monkeypatch.setattr(np, "float_", np.float64, raising=False)  # repeng 0.4 asks numpy 2 for a name that it removed
    repeng = pytest.importorskip("repeng")
    vector = SteeringVector((1, 3), torch.randn(2, 32, generator=torch.Generator().manual_seed(0)))
    write_gguf(tmp_path / "v.gguf", vector, "llama")
    read = repeng.ControlVector.import_gguf(tmp_path / "v.gguf")
    theirs = repeng.ControlModel(build_model(), [1, 3])
    theirs.set_control(read, 1.5)
    ours, ids = build_model(), torch.arange(2, 11)[None]
    plain = ours(input_ids=ids).logits
    with steered(ours, vector, 1.5):
        logits = ours(input_ids=ids).logits
    torch.testing.assert_close(logits, theirs(input_ids=ids).logits)
    assert (logits - plain).abs().max() > 0.1


def test_block_0_has_no_place_in_gguf(tmp_path):
    with pytest.raises(UserError, match="begin at block 1"):
        write_gguf(tmp_path / "v.gguf", SteeringVector((0, 2), torch.ones(2, 4)), "llama")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "dpo", "--eval.steer=1"], "dpo has no directions"),
        (["train", "innerpo", "--eval.steer=1", "--method.site=mlp_out"], "innerpo reads 'mlp_out'"),
        (["train", "innerpo", "--eval.steer=nan"], "eval.steer must be a finite number"),
        (["export", "nowhere"], "there is no folder nowhere"),
        (["export", "."], "so it has no direction"),
    ],
)
def test_what_cannot_be_steered_or_exported(args, says, capsys):
    assert main(args) == 2
    assert says in capsys.readouterr().err
