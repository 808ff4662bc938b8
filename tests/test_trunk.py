"""The shared trunk: passes that begin at the first adapted block give the numbers of whole passes."""

import json
import threading
import time
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch import nn

import innerpo
from benchmarks import trunk as trunk_benchmark
from conftest import build_model, build_tokenizer, make_pairs
from families import FAST, SLOW, Family
from innerpo.config.model import ModelConfig
from innerpo.config.run import default_run
from innerpo.data.batching.batch import make_batch
from innerpo.data.batching.token_rows import token_rows
from innerpo.data.tokens import PairTokenizer, PromptItem
from innerpo.doctor.checks import run_checks
from innerpo.errors import UserError
from innerpo.model import trunk
from innerpo.model.adapters import add_adapter, load_adapter, remove_adapter
from innerpo.model.base import Base
from innerpo.model.cache import save_tensors
from innerpo.model.forward.blocks import decoder_blocks
from innerpo.model.forward.layout import choose_layout
from innerpo.model.forward.outputs import StateRequest, sequence_outputs
from innerpo.model.forward.trunk_states import put_tokens
from innerpo.model.layer_spec import adapted_layers
from innerpo.model.trunk_check import first_block_of_adapter, first_changed_block, first_run_block, plan_trunk
from innerpo.run import evaluate, train
from innerpo.training.prepare import adapted, prepare_items
from innerpo.training.train import train_policy

LAYOUTS = ("one_row", "packed", "concatenated")
MISTRAL = next(f for f in SLOW if f.name == "mistral")  # a sliding window in every block, shorter than the prompts
BLOCK = 2
INSTRUCTION = "Answer with the number and nothing else, please. "
EXPERTS_EVERYWHERE = ("qwen3_next", "glm4_moe", "deepseek_v2", "deepseek_v3")


def base_of(family):
    model = MISTRAL.build() if family == "mistral" else build_model(family)
    return Base(model, build_tokenizer(), family, f"trunk-{family}")


def items_of(base, n=6):
    """Pairs whose prompts begin with the same instruction, which rows of one_row and packed hold once."""
    pairs = [replace(pair, prompt=INSTRUCTION + pair.prompt) for pair in make_pairs(n)]
    return PairTokenizer(base.tokenizer, 128, 64).training_items(pairs)


def trunk_of(base, items, layout="concatenated", block=BLOCK, reads=None, limit_gb=1.0):
    return plan_trunk(base, items, layout, block, reads, limit_gb)


def states_of(base, items, folder, layout="concatenated", **options):
    trunk = trunk_of(base, items, layout, **options)
    return trunk.states_of(base, items, layout, batch_size=4, cache_dir=folder, what="toy")


def moved_policy(base, layers="2,3"):
    """A policy whose adapter changes something: a fresh one's update is zero."""
    policy = add_adapter(base, ModelConfig(lora_r=4, adapt_layers=layers), 1)
    generator = torch.Generator().manual_seed(0)
    for p in policy.parameters():
        if p.requires_grad:
            p.data = 0.1 * torch.randn(p.shape, generator=generator)
    return policy


def outputs_and_gradient(policy, batch, request):
    """Everything a loss reads, and the gradient of a loss that reads everything."""
    policy.zero_grad()
    found = sequence_outputs(policy, batch, request)
    loss = (found.logps[0::2] - found.logps[1::2]).sigmoid().sum() + found.pooled.square().sum()
    (loss + found.token_states.sum()).backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.requires_grad])
    return [found.logps.detach(), found.pooled.detach(), found.token_states.detach(), gradient]


def gradient_of_logps(policy, batch):
    policy.zero_grad()
    logps = sequence_outputs(policy, batch).logps
    (logps[0::2] - logps[1::2]).sum().backward()
    trained = [p for p in policy.parameters() if p.requires_grad and p.grad is not None]
    return logps.detach(), torch.cat([p.grad.flatten() for p in trained])


@pytest.fixture
def calls(monkeypatch):
    """Counts how often the attention of each block is run."""

    def watch(model):
        counts = [0] * len(decoder_blocks(model))

        def hook_for(i):
            def hook(*_):
                counts[i] += 1

            return hook

        for i, block in enumerate(decoder_blocks(model)):
            block.self_attn.register_forward_hook(hook_for(i))
        return counts

    return watch


def run_config(folder, method="innerpo", **fields):
    config = default_run(method)
    config = replace(
        config,
        model=replace(config.model, lora_r=4, adapt_layers="2,3"),
        data=replace(config.data, batch_size=4, layout="concatenated", cache_dir=folder / "cache"),
        training=replace(
            config.training, lr=5e-3, warmup=0.0, max_steps=3, save_steps=0, log_steps=1, grad_share_steps=0
        ),
        output_dir=folder,
    )
    for name, value in fields.items():
        section, _, field = name.partition("__")
        config = replace(config, **{section: replace(getattr(config, section), **{field: value})})
    return config


def trained(config, base, items):
    """Train; return losses and gradient norms of the steps, and the policy's log-probabilities afterwards."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    prepared = prepare_items(config, base, items)
    with adapted(prepared, config) as (policy, method):
        train_policy(policy, method, prepared.pairs, config)
        with torch.no_grad():
            logps = sequence_outputs(policy.eval(), make_batch(items, "concatenated", 0)).logps
    lines = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["loss"], line["grad_norm"]) for line in lines if "loss/output" in line]
    return torch.tensor(steps), logps


# -- where a token's state lies ----------------------------------------------------------------------------------------


def with_shared_prefixes():
    """Nine items of unequal lengths, all but the first of which begin with the same hundred tokens."""
    generator = torch.Generator().manual_seed(3)

    def ids(n):
        return tuple(torch.randint(10, 300, (n,), generator=generator).tolist())

    start = ids(100)
    return [
        PromptItem(
            (*(start if i else ()), *ids(3 + i)), tuple(ids(1 + (i + k) % 5) for k in range(2 + i % 2)), (), (), ""
        )
        for i in range(9)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_position_takes_the_row_of_its_own_token(layout):
    """With token ids in the table in place of states, a batch gets back its ids: of prompts that share prefixes too."""
    items = with_shared_prefixes()
    order = [4, 0, 8, 1, 2, 3, 7]
    starts, table = {}, []
    for i in (8, 7, 3, 2, 1, 0, 4):  # in the table in another order, with something between
        table += [-7]
        starts[i] = len(table)
        table += [*items[i].prompt, *(t for r in items[i].responses for t in r)]
    some = [items[i] for i in order]
    batch = make_batch(some, layout, 0)
    rows = token_rows(some, batch, [starts[i] for i in order])
    held = batch.segments >= 0
    assert torch.equal(torch.tensor(table)[rows[held]], batch.input_ids[held])
    assert bool((rows[~held] == -1).all())
    if layout != "concatenated":
        assert bool((batch.owners == 0).any())  # something was shared


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_by_one_layout_is_read_by_every_other(layout):
    """Also for items that share a prefix, which a row holds once: with ids as states, all tokens are there."""
    items = with_shared_prefixes()
    starts = [0, *accumulate(i.n_tokens for i in items)][:-1]
    table = torch.full((sum(i.n_tokens for i in items), 1), -1.0)
    for some in ([4, 0, 8], [1, 2, 3, 7], [5, 6]):
        batch = make_batch([items[i] for i in some], layout, 0)
        states = batch.input_ids[..., None].float()
        put_tokens(table, [items[i] for i in some], batch, [starts[i] for i in some], states)
    assert table[:, 0].tolist() == [t for i in items for ids in (i.prompt, *i.responses) for t in ids]


# -- equal numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen", "gemma", "mistral"])
def test_log_probs_states_and_gradients_are_those_of_whole_passes(family, tmp_path):
    """In every layout, of states that were computed in another one; block 1's output is read without running it."""
    base, request = base_of(family), StateRequest((1, 2, 3), token_states=True)
    items = items_of(base)
    kept = states_of(base, items, tmp_path, "one_row")
    assert torch.equal(torch.isfinite(kept.states).all(1), torch.ones(len(kept.states), dtype=torch.bool))
    policy, indices = moved_policy(base), [4, 1, 0, 5]
    for layout in LAYOUTS:
        batch = make_batch([items[i] for i in indices], layout, 0)
        assert bool((batch.owners == 0).any()) == (layout != "concatenated")
        whole = outputs_and_gradient(policy, batch, request)
        started = outputs_and_gradient(policy, kept.enter(batch, items, indices), request)
        for a, b in zip(started[:-1], whole[:-1], strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        assert float((started[-1] - whole[-1]).norm() / whole[-1].norm()) < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore:The following (rank|alpha)_pattern")
@pytest.mark.parametrize("family", [*FAST, *SLOW], ids=lambda f: f.name)
def test_every_family_begins_at_a_block_with_equal_numbers_or_not_at_all(family, tmp_path):
    try:
        base = Base(family.build(), build_tokenizer(), family.name, family.name)
    except UserError as error:
        pytest.skip(str(error))
    items = items_of(base, 8)
    layout = choose_layout(base.model, items, 0).layout
    if trunk_of(base, items, layout) is None:
        assert family.name == "gemma3n_text"
        return
    kept = states_of(base, items, tmp_path, layout)
    if family.name in EXPERTS_EVERYWHERE:
        with pytest.raises(UserError, match="peft adapts the experts"):
            moved_policy(base)
        assert first_changed_block(base.model) == len(decoder_blocks(base.model))  # nothing is left on the base
        return
    policy = moved_policy(base)
    batch = make_batch(items, layout, 0)
    found = [gradient_of_logps(policy, b) for b in (batch, kept.enter(batch, items, range(len(items))))]
    torch.testing.assert_close(found[1][0], found[0][0], atol=5e-5, rtol=1e-5)  # sums over tokens, up to 100 nats
    halves = sum(gradient_of_logps(policy, make_batch(items[i : i + 4], layout, 0))[1] for i in (0, 4))
    gradient = found[0][1]
    rounding = float((halves - gradient).norm() / gradient.norm())  # of whole passes among themselves
    assert float((found[1][1] - gradient).norm() / gradient.norm()) < max(1e-5, 2 * rounding)
    assert rounding < 1e-4


def test_blocks_of_the_trunk_are_run_once_and_no_more(toy, items, tmp_path, calls):
    counts = calls(toy.model)
    kept = states_of(toy, items, tmp_path)
    before = list(counts)
    policy = moved_policy(toy)
    sequence_outputs(
        policy, kept.enter(make_batch(items, "one_row", 0), items, range(len(items)))
    ).logps.sum().backward()
    assert [n - b for n, b in zip(counts, before, strict=True)] == [0, 0, 1, 1]
    toy.memory.put("", {})
    assert counts[3] == before[3] + 1
    again = states_of(Base(toy.model, toy.tokenizer, "toy", "toy-identity"), items, tmp_path)
    assert torch.equal(again.states, kept.states)


@pytest.mark.parametrize("layout", ["one_row", pytest.param("packed", marks=pytest.mark.slow)])
def test_a_training_has_the_losses_of_whole_passes(layout, tmp_path):
    """States are read from block 1 (the trunk's last) on, and the reference is run at each step, as its states are too
    many to keep.
    """
    base, found = base_of("gemma"), []
    items = items_of(base, 8)
    for limit in (0.0, 1.0):
        fields = {"data__layout": layout, "data__trunk_cache_gb": limit, "data__token_cache_gb": 0.0}
        config = run_config(tmp_path / str(limit), method__layers="1,2,3", **fields)
        found.append(trained(config, base, items))
    assert (tmp_path / "1.0/cache/trunk").is_dir()
    assert not (tmp_path / "0.0/cache/trunk").exists()
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-4, rtol=1e-5)
    assert found[0][0][-1, 0] != found[0][0][0, 0]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"method__ablate": 1.0}, id="ablated"),
        pytest.param({"training__gradient_checkpointing": True}, id="checkpointed"),
        pytest.param({"method__inoculate": 1.0}, id="inoculated", marks=pytest.mark.slow),
        pytest.param({"method__extra": {"mismatch": 0.5}}, id="companions", marks=pytest.mark.slow),
        pytest.param({"method__gradient": "projbp"}, id="edited gradient", marks=pytest.mark.slow),
        pytest.param(
            {"training__max_steps": 1, "method__alpha": 0.0, "method__gamma": 0.0},
            id="of some pairs alone",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_hooks_checkpoints_and_companions_go_with_it(fields, tmp_path):
    base, found = base_of("llama"), []
    items = items_of(base, 8)
    for limit in (0.0, 1.0):
        config = run_config(tmp_path / str(limit), method__layers="1,3", data__trunk_cache_gb=limit, **fields)
        found.append(trained(config, base, items))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-4, rtol=1e-5)


# -- what a run does ---------------------------------------------------------------------------------------------------


def test_scores_at_every_strength_and_saved_adapters_are_those_of_whole_passes(
    toy_folder, pairs_file, tmp_path, caplog
):
    def scored(limit, verb):
        options = {
            "model.base_model": str(toy_folder),
            "model.adapt_layers": "2,3",
            "data.dataset": str(pairs_file),
            "data.trunk_cache_gb": limit,
            "data.cache_dir": tmp_path / "cache",
            "training.max_steps": 2,
            "training.lr": 1e-2,
            "eval.sets": ("train",),
            "eval.strengths": (0.5, 1.0),
            "eval.steer": 1.0,
            "method.layers": "1,3",
            "output_dir": tmp_path / "out" / str(limit),
        }
        config = innerpo.run_config("innerpo", **options)
        return train(config) if verb == "train" else evaluate(config.run_dir, config)

    caplog.set_level("INFO")
    with_trunk = scored(1.0, "train")
    assert "trunk: blocks 0..1 once" in caplog.text
    logps, rewards = (with_trunk.scores.responses[name].to_numpy() for name in ("logp", "inner"))
    assert with_trunk.scores.responses["model"].n_unique() == 3  # base, policy at both strengths, steered base
    whole = scored(0.0, "train").scores.responses
    assert logps == pytest.approx(whole["logp"].to_numpy(), abs=1e-4)
    assert rewards == pytest.approx(whole["inner"].to_numpy(), abs=1e-4)
    saved = json.loads((with_trunk.folder / "adapter_config.json").read_text())
    assert (saved["layers_to_transform"], saved["layers_pattern"]) == ([2, 3], "layers")
    caplog.clear()
    assert logps == pytest.approx(scored(1.0, "eval").scores.responses["logp"].to_numpy(), abs=1e-4)
    assert "trunk: blocks 0..1 on" in caplog.text


def test_an_adapter_on_some_blocks_is_saved_and_loaded(toy, tmp_path):
    policy = moved_policy(toy)
    batch = make_batch(items_of(toy), "one_row", 0)
    with torch.no_grad():
        before = sequence_outputs(policy, batch).logps
    assert first_changed_block(policy) == BLOCK
    policy.save_pretrained(tmp_path)
    remove_adapter(toy, policy)
    assert first_changed_block(toy.model) == len(decoder_blocks(toy.model))
    assert first_block_of_adapter(tmp_path, toy) == BLOCK
    assert first_block_of_adapter(tmp_path / "nowhere", toy) == 0
    policy = load_adapter(toy, tmp_path)
    assert first_changed_block(policy) == BLOCK
    with torch.no_grad():
        assert torch.equal(sequence_outputs(policy, batch).logps, before)


def test_the_doctor_compares_both(toy, pairs_file, tmp_path):
    fields = {"model.adapt_layers": "2,3", "method.layers": "1,2", "model.lora_r": 4, "data.batch_size": 4}
    config = innerpo.run_config("innerpo", **{"data.dataset": str(pairs_file), "data.cache_dir": tmp_path, **fields})
    checks = {name: (found, right) for name, found, right in run_checks(config, base=toy).whole}
    found, right = checks["trunk"]
    assert right
    assert found.startswith("blocks 0..1 once")


# -- limits and refusals -----------------------------------------------------------------------------------------------


def test_a_trunk_ends_where_states_are_first_read():
    assert first_run_block(15, None) == 15
    assert first_run_block(15, StateRequest((14, 20))) == 15  # block 14's output is what enters block 15
    assert first_run_block(15, StateRequest((9, 20))) == 10
    assert first_run_block(15, StateRequest((9, 20), site="mlp_out")) == 9  # inside block 9
    assert first_run_block(2, StateRequest((0,))) == 1


def test_files_are_bounded_though_several_write_at_once(tmp_path, monkeypatch):
    """Files of 4 kB and a limit of 10: two have room. Without one writer at a time all would see an empty folder."""

    def slow_save(path, tensors):
        time.sleep(0.05)
        save_tensors(path, tensors)

    monkeypatch.setattr(trunk, "save_tensors", slow_save)
    states = torch.zeros(1000)
    threads = [
        threading.Thread(target=trunk._keep, args=(tmp_path / "trunk" / f"{i}.safetensors", states, 4000, 1.0e4))
        for i in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "trunk").glob("*.safetensors"))) == 2


def test_files_are_bounded_and_the_oldest_make_room(toy, tmp_path, caplog):
    caplog.set_level("INFO")
    items = items_of(toy, 6)
    one = sum(i.n_tokens for i in items[:3]) * 32 * 4
    (tmp_path / "trunk").mkdir()
    half = tmp_path / "trunk" / ".other.safetensors.x1.safetensors"  # another process writes it
    half.write_bytes(bytes(10 * one))
    for some in (items[:3], items[3:]):
        assert states_of(toy, some, tmp_path, limit_gb=1.5 * one / 1e9) is not None
        (path,) = {*(tmp_path / "trunk").iterdir()} - {half}  # never two
    assert "makes room" in caplog.text
    assert states_of(toy, items, tmp_path, limit_gb=1.5 * one / 1e9) is None
    assert "not kept, passes begin at the embedding" in caplog.text
    assert {*(tmp_path / "trunk").iterdir()} == {path, half}


def test_families_that_are_not_understood_have_none(caplog):
    caplog.set_level("INFO")
    gemma3n = next(f for f in FAST if f.name == "gemma3n_text")
    base = Base(gemma3n.build(), build_tokenizer(), "gemma3n", "gemma3n")
    assert trunk_of(base, items_of(base)) is None
    assert "trunk: none, every pass begins at the embedding (its blocks pass on more than one vector" in caplog.text


def test_states_that_depend_on_the_rest_of_the_batch_are_refused(caplog):
    """Dynamic rotary frequencies follow the longest row of the batch, so that kept states would not be its own."""
    caplog.set_level("INFO")
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    family = Family("llama", {"rope_parameters": rope, "max_position_embeddings": 64})
    base = Base(family.build(), build_tokenizer(), "dynamic", "dynamic")
    assert trunk_of(base, items_of(base)) is None
    assert "log-probs differ by" in caplog.text


def test_blocks_that_share_weights_have_none(toy, items, caplog):
    caplog.set_level("INFO")
    blocks = decoder_blocks(toy.model)
    blocks[3].mlp = blocks[0].mlp
    assert trunk_of(toy, items) is None
    assert "share weights" in caplog.text


def test_a_policy_with_an_adapter_before_the_trunk_ends_is_trained_on_whole_passes(toy, items, tmp_path, caplog):
    caplog.set_level("INFO")
    config = run_config(tmp_path, "dpo")
    config.run_dir.mkdir(parents=True)
    prepared = prepare_items(config, toy, items)
    policy = add_adapter(toy, ModelConfig(lora_r=4), 1)
    assert first_changed_block(policy) == 0
    train_policy(policy, prepared.method, prepared.pairs, config)
    assert "trunk: not used in training" in caplog.text


def test_a_trained_embedding_or_an_earlier_block_counts_as_changed(toy):
    policy = moved_policy(toy)
    toy.model.get_input_embeddings().weight.requires_grad_(True)
    assert first_changed_block(policy) == 0
    toy.model.get_input_embeddings().weight.requires_grad_(False)
    assert first_changed_block(nn.Module.requires_grad_(policy, False)) == BLOCK  # adapters count, trained or not


def test_wrong_wishes_are_refused(toy, items, tmp_path):
    assert adapted_layers("all", 4) == (0, 1, 2, 3)
    with pytest.raises(UserError, match=r"model.adapt_layers='9': there is no layer 9"):
        adapted_layers("9", 4)
    with pytest.raises(UserError, match=r"model\.lora_r=0 has none"):
        ModelConfig(lora_r=0, adapt_layers="2")
    with pytest.raises(UserError, match="no gradient would reach the adapter"):
        prepare_items(run_config(tmp_path, method__layers="0,1"), toy, items)
    with pytest.raises(UserError, match=r"data.trunk_cache_gb must not be negative"):
        innerpo.run_config("dpo", **{"data.trunk_cache_gb": -1.0})


@pytest.mark.slow
def test_the_benchmark_compares_losses_and_scores(toy_folder, pairs_file, tmp_path, capsys):
    saved = tmp_path / "trunk.json"
    model = [f"--model={toy_folder}", f"--dataset={pairs_file}", f"--cache-dir={tmp_path}", f"--save={saved}"]
    assert (
        trunk_benchmark.main(
            [*model, "--adapt-layers=2,3", "--batch-size=2", "--steps=3", "--prompts=4", "--repeats=1"]
        )
        == 0
    )
    (workload,) = json.loads(saved.read_text())["workloads"]
    rows = {row["system"]: row for row in workload["rows"]}
    assert rows["plain"]["losses"] == pytest.approx(rows["trunk"]["losses"], abs=1e-5)
    assert rows["all"]["losses"][1:] != pytest.approx(rows["trunk"]["losses"][1:], abs=1e-5)
    assert trunk_benchmark.main(["--steps=0"]) == 2
