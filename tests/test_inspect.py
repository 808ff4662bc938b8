"""`innerpo inspect`: values by hand for one block, an adapter that does nothing, files, foreign and frozen runs."""

import csv
import json
from dataclasses import replace

import pytest
import torch

from innerpo.cli.verbs import main
from innerpo.config.run import default_run
from innerpo.config.yaml import read_run_config
from innerpo.data.sources import load_pairs
from innerpo.data.tokens import PairTokenizer
from innerpo.data.training_pairs import training_pairs
from innerpo.evaluation.inspect.measure import measure
from innerpo.evaluation.inspect.run import best_against_first_worse, inspect_run
from innerpo.evaluation.sets import PROMPT_SEED
from innerpo.model.adapters import add_adapter
from innerpo.model.loading import load_base
from innerpo.run import train
from innerpo.training.artifacts import load_policy
from source_helpers import write_jsonl

FILES = {"inspect.json", "inspect.csv", "inspect.png", "inspect.svg"}


@pytest.fixture(scope="module")
def trained(toy_folder, tmp_path_factory):
    """A toy run of innerpo, as its folder."""
    tmp_path = tmp_path_factory.mktemp("inspect")
    return train(toy_config("innerpo", toy_folder, tmp_path)).folder


def toy_config(name, toy_folder, tmp_path):
    config = default_run(name)
    data = replace(config.data, dataset="embedded:longer", max_train_prompts=12, cache_dir=tmp_path / "cache")
    return replace(
        config,
        method=replace(config.method, layers="1,-1"),
        model=replace(config.model, base_model=str(toy_folder), lora_r=4, dtype="float32"),
        data=data,
        training=replace(config.training, lr=5e-3, max_steps=6, save_steps=0, grad_share_steps=0),
        eval=replace(config.eval, skip=True),
        output_dir=tmp_path / "outputs",
    )


def states(model, base, items, block):
    """Completion states of one block, RMS-normalised, one response a row of the model: a list by response."""
    found = []
    for item in items:
        for response in item.responses:
            ids = torch.tensor([[*item.prompt, *response]])
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
            h = hidden[block + 1][0, len(item.prompt) :].double()
            found.append(h / h.square().mean(-1, keepdim=True).sqrt())
    return found


@torch.no_grad()
def test_the_values_of_a_block_are_those_computed_by_hand(trained):
    block = 1  # not the last, where transformers' hidden_states are normalised
    config = read_run_config(trained)
    found = inspect_run(trained, config, prompts=10)
    row = found.rows[block]
    base = load_base(config.model, config.data.cache_dir)
    tokens = PairTokenizer(base.tokenizer, 512, 512)
    train = tokens.training_items(training_pairs(config))
    pairs = best_against_first_worse(load_pairs("embedded:longer", "test", config.data), 10, PROMPT_SEED)
    test = tokens.training_items(pairs)
    assert (found.n_train, found.n_test) == (len(train), 10)

    u_train = states(base.model, base, train, block)
    u_ref = states(base.model, base, test, block)
    u_policy = states(load_policy(base, trained).eval(), base, test, block)

    def differences(u):
        s = torch.stack([x.mean(0) for x in u])
        return s[0::2] - s[1::2]

    d_train, d, delta = differences(u_train), differences(u_ref), differences(u_policy)
    w = d_train.mean(0) / d_train.mean(0).norm()
    left_out = []
    for i in range(len(d_train)):
        others = torch.cat([d_train[:i], d_train[i + 1 :]]).mean(0)
        left_out.append(d_train[i] @ others / others.norm())
    left_out = torch.stack(left_out)
    every = torch.cat(u_train)
    spread = (every - every.mean(0)).square().sum(1).mean()
    drift = []
    for before, after in zip(u_ref, u_policy, strict=True):
        moved = after - before
        across = moved - (moved @ w)[:, None] * w
        drift.append(across.square().sum(1).mean() / spread)
    s_ref, s_policy = (torch.stack([x.mean(0) for x in u]) for u in (u_ref, u_policy))

    assert row.along == pytest.approx(float((((delta - d) @ w) / left_out.std()).mean()), rel=1e-3)
    assert row.across == pytest.approx(float(torch.stack(drift).mean()), rel=1e-3)
    assert row.cosine == pytest.approx(float(torch.cosine_similarity(s_policy, s_ref).mean()), abs=1e-5)
    assert row.accuracy_train == pytest.approx(float((left_out > 0).double().mean()))
    assert row.accuracy_before == pytest.approx(float((d @ w > 0).double().mean()))
    assert row.accuracy_after == pytest.approx(float((delta @ w > 0).double().mean()))
    assert abs(row.along) > 1e-3
    assert row.across > 1e-6
    assert [r.block for r in found.rows] == [0, 1, 2, 3]
    assert [r.read for r in found.rows] == [False, True, False, True]


def test_the_verb_writes_table_and_files(trained, capsys):
    assert main(["inspect", str(trained), "--prompts=6"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("along", "across", "cosine", "accuracy after", "*1", "*3"))
    names = {p.name for p in trained.iterdir()}
    assert names >= FILES
    assert not {n for n in names if n.startswith(".")}
    plain = json.loads((trained / "inspect.json").read_text())
    assert (plain["dataset"], plain["n_train"], plain["n_test"], plain["pool"]) == ("embedded:longer", 12, 6, "mean")
    rows = list(csv.DictReader((trained / "inspect.csv").read_text().splitlines()))
    assert [{k: str(v) for k, v in row.items()} for row in plain["blocks"]] == rows
    assert (trained / "inspect.png").read_bytes().startswith(b"\x89PNG")
    assert "cosine, policy and reference" in (trained / "inspect.svg").read_text()


def test_responses_diverge_among_all_of_their_prompt(toy_folder, tmp_path, monkeypatch):
    """Chosen and first rejected part at the third word, the second rejected one at the first."""
    rows = []
    for i in range(12):
        for other in (" a b d", " c b d"):
            rows.append(
                {"prompt": f"say {i}:", "chosen": " a b c", "rejected": other, "split": ("train", "test")[i % 2]}
            )
    config = toy_config("innerpo", toy_folder, tmp_path)
    data = replace(config.data, dataset=str(write_jsonl(tmp_path / "rows.jsonl", rows)))
    config = replace(config, data=data, method=replace(config.method, pool="first_divergence"))
    folder, seen = train(config).folder, []

    def kept(policy, base, items, *more):
        seen.extend(items)
        return measure(policy, base, items, *more)

    monkeypatch.setattr("innerpo.evaluation.inspect.run.measure", kept)
    inspect_run(folder, config)
    assert len(seen) == 6
    assert {item.divergence for item in seen} == {1}  # behind the space with which all begin


def test_a_foreign_adapter_that_does_nothing_moved_nothing(toy_folder, tmp_path, capsys):
    config = toy_config("dpo", toy_folder, tmp_path)
    policy = add_adapter(load_base(config.model, tmp_path), config.model, 0)  # lora_B is zero
    policy.save_pretrained(tmp_path / "foreign")
    flags = [str(tmp_path / "foreign"), f"--data.cache-dir={tmp_path / 'cache'}", "--data.max-train-prompts=8"]
    assert main(["inspect", *flags]) == 2
    assert "was not trained by innerpo" in capsys.readouterr().err
    assert main(["inspect", *flags, "--eval.train-dataset=embedded:longer", "--prompts=4"]) == 0
    (written,) = (tmp_path / "foreign").glob("eval-*")
    blocks = json.loads((written / "inspect.json").read_text())["blocks"]
    assert len(blocks) == 4
    for row in blocks:
        assert (row["along"], row["across"], row["read"]) == (0.0, 0.0, False)
        assert row["cosine"] == pytest.approx(1.0, abs=1e-6)
        assert row["accuracy_after"] == row["accuracy_before"]


@pytest.mark.parametrize(("name", "lora_r"), [("probe", 4), ("dpo", 0)])
def test_runs_without_an_adapter(name, lora_r, toy_folder, tmp_path, capsys):
    config = toy_config(name, toy_folder, tmp_path)
    config = replace(config, model=replace(config.model, lora_r=lora_r))
    folder = train(config).folder
    assert main(["inspect", str(folder), "--prompts=4"]) == 0
    rows = json.loads((folder / "inspect.json").read_text())["blocks"]
    still = all(row["across"] == row["along"] == 0.0 for row in rows)
    assert still == (name == "probe")
    assert ("trained nothing" in capsys.readouterr().err) == (name == "probe")


@pytest.mark.parametrize(
    ("flags", "says"),
    [(["nowhere"], "there is no folder nowhere"), ([".", "--prompts=0"], "prompts must be at least 1")],
)
def test_what_cannot_be_inspected(flags, says, capsys):
    assert main(["inspect", *flags]) == 2
    assert says in capsys.readouterr().err


def test_one_pair_a_prompt():
    config = default_run("dpo").data
    pairs = load_pairs("embedded:longer", "test", config)
    doubled = [q for p in pairs for q in (p, replace(p, rejected="worse still", id=p.id + "b"))]
    chosen = best_against_first_worse(doubled, 5, 0)
    assert len(chosen) == 5
    assert set(chosen) <= set(pairs)


def test_another_site_is_inspected_where_the_method_reads_it(toy_folder, tmp_path):
    """The inputs of down_proj have 48 components, the residual stream 32: other states, other numbers."""
    config = toy_config("innerpo", toy_folder, tmp_path)
    folder = train(replace(config, method=replace(config.method, site="down_proj_in"))).folder
    own = read_run_config(folder)
    assert own.method.site == "down_proj_in"
    rows = inspect_run(folder, own, prompts=4).rows
    residual = inspect_run(folder, replace(own, method=replace(own.method, site="residual")), prompts=4).rows
    assert [r.read for r in rows] == [False, True, False, True]
    assert all(r.across > 0 for r in rows[1:])
    assert all(abs(a.cosine - b.cosine) > 1e-6 for a, b in zip(rows[1:], residual[1:], strict=True))
