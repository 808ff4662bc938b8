"""Generated texts: base and policy side by side, the same each time, with the log-probabilities of their tokens."""

import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

import innerpo
from conftest import build_model, build_tokenizer, make_pairs
from innerpo.cli.render_generations import side_by_side
from innerpo.cli.verbs import main
from innerpo.config.run import to_dict
from innerpo.config.yaml import as_yaml
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError
from innerpo.evaluation import generate as module
from innerpo.evaluation.generate import GenerationRequest, generate_run
from innerpo.evaluation.generations import FILE, read_generations, write_generations
from innerpo.evaluation.report.folders import read_lines
from innerpo.files import write_text
from innerpo.model import generation
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base, reference_mode
from innerpo.model.generation import GenerationPrompt, generate, generate_both, not_in_one_batch
from innerpo.model.sampling import GumbelNoise, Sampling
from innerpo.training.artifacts import load_policy

GREEDY = Sampling(max_new_tokens=6)
DRAWN = Sampling(max_new_tokens=6, sample=True, temperature=0.8, top_p=0.9, seed=3)


@pytest.fixture
def base():
    return Base(build_model(), build_tokenizer(), "toy", "toy")


@pytest.fixture
def prompts(base):
    tokens = PairTokenizer(base.tokenizer, 64, 64)
    return [GenerationPrompt(*tokens.generation_prompt(p.prompt), key=p.cluster) for p in make_pairs(5)]


def moved(base, scale=0.3, **options):
    """A policy whose adapter does something."""
    config = innerpo.ModelConfig(lora_r=4, **options)
    policy = add_adapter(base, config, seed=1)
    g = torch.Generator().manual_seed(5)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            p.data = scale * torch.randn(p.shape, generator=g).to(p.dtype)
    return policy.eval()


def naive(model, ids, stops, n):
    """Greedy search without padding, batch or cache."""
    ids, start = list(ids), len(ids)
    with torch.no_grad():
        while len(ids) < start + n:
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
            if ids[-1] in stops:
                break
    return tuple(ids[start:])


def test_greedy_texts_are_those_of_naive_search_for_base_and_policy(base, prompts):
    policy = moved(base)
    own, theirs = generate_both(policy, base, prompts, GREEDY)
    assert [w.ids for w in theirs] == [naive(policy, p.ids, {1}, 6) for p in prompts]
    with reference_mode(policy):
        assert [w.ids for w in own] == [naive(base.model, p.ids, {1}, 6) for p in prompts]
    assert own != theirs
    assert len({len(p.ids) for p in prompts}) > 1  # some are padded


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_one_batch_and_one_after_the_other_give_the_same_texts(base, prompts, sampling, monkeypatch):
    policy = moved(base)
    assert not_in_one_batch(policy) == ""
    together = generate_both(policy, base, prompts, sampling)
    monkeypatch.setattr(generation, "not_in_one_batch", lambda policy: "not today")
    assert generate_both(policy, base, prompts, sampling) == together


def test_draws_depend_on_the_seed_and_the_prompt_and_not_on_the_batch(base, prompts):
    whole = generate(base.model, base, prompts, DRAWN)
    assert [generate(base.model, base, [p], DRAWN)[0] for p in prompts] == whole
    assert generate(base.model, base, prompts[::-1], DRAWN)[::-1] == whole
    other = Sampling(max_new_tokens=6, sample=True, temperature=0.8, top_p=0.9, seed=4)
    assert generate(base.model, base, prompts, other) != whole
    assert whole != generate(base.model, base, prompts, GREEDY)


def test_draws_have_the_softmax_as_their_distribution():
    scores = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])
    noise, ids = GumbelNoise(0, [str(i) for i in range(1500)]), torch.zeros(1500, 1, dtype=torch.long)
    drawn = [noise(ids, scores.expand(1500, -1)).argmax(-1) for _ in range(4)]
    shares = torch.bincount(torch.cat(drawn), minlength=4) / 6000
    torch.testing.assert_close(shares, scores.softmax(-1)[0], atol=0.02, rtol=0)
    assert shares[3] == 0
    assert not torch.equal(drawn[0], drawn[1])


def test_the_models_own_generation_config_has_no_say_and_comes_back(base, prompts):
    expected = generate(base.model, base, prompts, GREEDY)
    config = base.model.generation_config
    config.do_sample, config.repetition_penalty, config.temperature = True, 5.0, 3.0
    assert generate(base.model, base, prompts, GREEDY) == expected
    assert base.model.generation_config is config


def test_a_text_ends_at_any_token_that_ends_one(base, prompts):
    """EOS of the tokenizer, the ends that the model's config names, and the closing token of a chat turn."""
    free = generate(base.model, base, prompts[:1], GREEDY)[0]
    assert not free.stopped
    third = free.ids[2]
    base.model.generation_config.eos_token_id = [1, third]
    first = free.ids.index(third)
    assert generate(base.model, base, prompts[:1], GREEDY)[0] == generation.Written(free.ids[: first + 1], True)
    base.model.generation_config.eos_token_id = 1
    closing = GenerationPrompt(prompts[0].ids, third, prompts[0].key)
    assert generate(base.model, base, [closing], GREEDY)[0].ids == free.ids[: first + 1]


@pytest.mark.parametrize("options", [{"dtype": "auto"}, {"target_modules": "q_proj,v_proj"}])
def test_plain_lora_shares_a_batch(base, options):
    assert not_in_one_batch(moved(base, **options)) == ""


def test_what_cannot_share_a_batch_says_why(base):
    assert "no adapter" in not_in_one_batch(base.model)
    half = Base(build_model().to(torch.bfloat16), build_tokenizer(), "half", "half")
    assert "half precision" in not_in_one_batch(moved(half))
    from peft import IA3Config, LoraConfig, get_peft_model

    targets = ["q_proj", "v_proj"]
    dora = get_peft_model(build_model(), LoraConfig(use_dora=True, target_modules=targets, task_type="CAUSAL_LM"))
    assert "plain LoRA" in not_in_one_batch(dora)
    ia3 = get_peft_model(
        build_model(), IA3Config(target_modules=targets, feedforward_modules=[], task_type="CAUSAL_LM")
    )
    assert "plain LoRA" in not_in_one_batch(ia3)
    saved = LoraConfig(target_modules=targets, modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    assert "more than LoRA" in not_in_one_batch(get_peft_model(build_model(), saved))


def test_a_prompt_and_its_text_must_fit(base, prompts):
    with pytest.raises(UserError, match=r"max_new_tokens=500 do not fit the model's 512 positions"):
        generate(base.model, base, prompts, Sampling(max_new_tokens=500))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": 0.0}, "temperature must be a number above 0"),
        ({"top_p": 1.5}, "top_p must lie above 0"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_wrong_sampling(options, message):
    with pytest.raises(UserError, match=message):
        Sampling(**options)


def test_prompts_to_go_on_from(tokenizer):
    tokens = PairTokenizer(tokenizer, 4, 64)
    ids, close = tokens.generation_prompt("the cat sat on the mat")
    assert (tokenizer.decode(ids), close) == ("sat on the mat".rjust(len(tokenizer.decode(ids))), 1)
    assert tokens.generation_prompt("") == ((1,), 1)  # no BOS: EOS starts it
    chat = PairTokenizer(tokenizer, 64, 64).generation_prompt(({"role": "user", "content": "the cat"},))
    assert tokenizer.decode(chat[0]) == "<|user|>the cat<eos>\n<|assistant|>"
    assert chat[1] == 1


# -- a run's folder ----------------------------------------------------------------------------------------------------


def saved(folder, policy, toy_folder, **options):
    """A run's folder with a policy in it, as if it had been trained, and its config."""
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in make_pairs(9)]
    for split in ("train", "test"):
        write_text(folder / "data" / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    places = {"data.cache_dir": folder / "cache", "data.dataset": str(folder / "data"), "model.dtype": "float32"}
    fixed = {"model.base_model": str(toy_folder), "eval.batch_size": 2, "eval.oos_dataset": "embedded:compare"}
    config = innerpo.run_config("dpo", **places | fixed | options)
    policy.save_pretrained(folder)
    write_text(folder / "config.yaml", as_yaml(to_dict(config)))
    return SimpleNamespace(folder=folder, config=config)


@pytest.fixture
def run(base, toy_folder, tmp_path):
    """A run whose adapter does something."""
    policy = moved(base)
    found = saved(tmp_path / "run", policy, toy_folder, **{"model.lora_r": 4})
    innerpo.remove_adapter(base, policy)
    return found


def test_a_run_writes_texts_beside_its_scores(base, run):
    request = GenerationRequest(prompts=3, sampling=GREEDY)
    found = generate_run(run.folder, run.config, request, base)
    assert found.path == run.folder / FILE
    assert tuple(read_generations(run.folder)) == found.texts
    assert [(g.model, g.strength, g.set, g.split) for g in found.texts] == 3 * [
        ("base", 0.0, "test", "test"),
        ("dpo", 1.0, "test", "test"),
    ]
    assert len({g.prompt_id for g in found.texts}) == 3
    by_base, by_policy = found.texts[0], found.texts[1]
    assert by_base.logp == by_base.logp_base
    assert by_policy.logp != by_policy.logp_base
    assert by_base.prompt == by_policy.prompt
    row = json.loads(found.path.read_text().splitlines()[1])
    assert (row["tokens"], row["stopped"], row["sampling"]["sample"]) == (by_policy.tokens, by_policy.stopped, False)


def test_log_probabilities_are_those_of_the_tokens_under_the_model_that_wrote_them(base, run):
    found = generate_run(run.folder, run.config, GenerationRequest(prompts=2, sampling=GREEDY), base)
    tokens = PairTokenizer(base.tokenizer, 64, 64)
    loaded = innerpo.load(run.folder, base)
    for model, name in ((base.model, "base"), (loaded.policy, "dpo")):
        for g in (g for g in found.texts if g.model == name):
            prompt = tokens.generation_prompt(g.prompt)[0]
            text = naive(model, prompt, {1}, 6) if name == "dpo" else None
            with reference_mode(loaded.policy):
                text = text or naive(base.model, prompt, {1}, 6)
            expected = []
            for on in (model, base.model):
                context = reference_mode(loaded.policy) if on is base.model else torch.no_grad()
                with context, torch.no_grad():
                    logps = on(torch.tensor([[*prompt, *text]])).logits[0].log_softmax(-1)
                expected.append(sum(logps[len(prompt) - 1 + i, t].item() for i, t in enumerate(text)))
            assert (g.logp, g.logp_base) == pytest.approx(expected, abs=1e-4)
            assert g.tokens == len(text)
    innerpo.remove_adapter(base, loaded.policy)


def test_the_same_request_gives_the_same_texts_and_others_are_kept(base, run):
    request = GenerationRequest(prompts=3, sampling=DRAWN)
    first = generate_run(run.folder, run.config, request, base)
    assert generate_run(run.folder, run.config, request, base) == first
    assert len(read_generations(run.folder)) == 6
    other = GenerationRequest(prompts=2, dataset="embedded:compare", strength=0.5, sampling=GREEDY)
    more = generate_run(run.folder, run.config, other, base)
    assert {(g.set, g.strength) for g in more.texts} == {("embedded:compare", 0.0), ("embedded:compare", 0.5)}
    assert read_generations(run.folder) == [*first.texts, *more.texts]


def test_any_character_of_a_text_may_stand_in_the_file(base, run):
    """Separators of lines and paragraphs, which JSON need not escape and str.splitlines takes for ends of lines."""
    first = generate_run(run.folder, run.config, GenerationRequest(prompts=1, sampling=GREEDY), base)
    odd = [replace(g, prompt="a\u2028b\u2029c\x85d\n") for g in first.texts]
    write_generations(run.folder, odd)
    assert read_generations(run.folder) == odd
    assert [row["prompt"] for row in read_lines(run.folder / FILE)] == [g.prompt for g in odd]


def test_texts_of_other_weights_go(base, run):
    first = generate_run(run.folder, run.config, GenerationRequest(prompts=2, sampling=GREEDY), base)
    rows = [json.loads(line) for line in first.path.read_text().splitlines()]
    stale = [row | {"sampling": row["sampling"] | {"seed": 9}, "weights": "of old"} for row in rows]
    first.path.write_text("".join(json.dumps(row) + "\n" for row in stale))
    assert generate_run(run.folder, run.config, GenerationRequest(prompts=2, sampling=GREEDY), base) == first
    assert read_generations(run.folder) == list(first.texts)


def test_an_interrupted_request_writes_nothing(base, run, monkeypatch):
    calls = []

    def stop(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate_both(*args)

    monkeypatch.setattr(module, "generate_both", stop)
    with pytest.raises(KeyboardInterrupt):
        generate_run(run.folder, run.config, GenerationRequest(prompts=3, sampling=GREEDY), base)
    assert not (run.folder / FILE).exists()
    assert not [m for m in base.model.modules() if hasattr(m, "lora_A")]


def test_the_command_shows_texts_side_by_side(run, capsys):
    options = ["--prompts=2", "--max_new_tokens=5", "--strength=0.5", "--model.dtype=float32"]
    assert main(["generate", str(run.folder), *options]) == 0
    shown, said = capsys.readouterr()
    assert "(test), greedy, at most 5 tokens" in " ".join(shown.split())
    assert "dpo x 0.5" in shown
    assert "which is larger" in shown
    assert shown.count("5 tokens, cut") == 4
    assert shown.count("(base") == 2
    assert f"written to {run.folder / FILE}" in " ".join(said.split())
    assert [g.strength for g in read_generations(run.folder)] == [0.0, 0.5, 0.0, 0.5]


def test_texts_from_python(base, run):
    texts = innerpo.generate(run.folder, base=base, prompts=1, max_new_tokens=4, sample=True, seed=2)
    assert [(g.model, g.sampling.seed) for g in texts] == [("base", 2), ("dpo", 2)]
    assert tuple(read_generations(run.folder)) == texts


def test_a_fully_fine_tuned_policy(base, toy_folder, tmp_path):
    whole = build_model()
    for p in whole.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    run = saved(tmp_path / "run", whole, toy_folder, **{"model.lora_r": 0})
    texts = generate_run(run.folder, run.config, GenerationRequest(prompts=3, sampling=GREEDY), base).texts
    assert [g.text for g in texts[::2]] != [g.text for g in texts[1::2]]
    tokens = PairTokenizer(base.tokenizer, 64, 64)
    for by_base, by_policy in zip(texts[::2], texts[1::2], strict=True):
        prompt = tokens.generation_prompt(by_base.prompt)[0]
        ids = naive(whole, prompt, {1}, 6)
        assert by_policy.tokens == len(ids)
        assert by_policy.text == base.tokenizer.decode(ids[: len(ids) - by_policy.stopped])
        assert by_base.logp == by_base.logp_base > by_policy.logp_base


@pytest.mark.slow
def test_a_torn_file_of_whole_weights_is_told_in_one_line(base, tmp_path):
    base.model.save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("model*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot load the model in"):
        load_policy(base, tmp_path)


def test_a_frozen_method_writes_what_its_base_writes(base, tmp_path):
    places = {"data.cache_dir": tmp_path, "output_dir": tmp_path, "eval.skip": True, "method.layers": "1"}
    made = innerpo.train(base, "probe", data="embedded:compare", **places)
    texts = innerpo.generate(made.folder, base=base, prompts=3, max_new_tokens=8)
    assert [(g.text, g.logp) for g in texts[::2]] == [(g.text, g.logp) for g in texts[1::2]]
    assert [g.model for g in texts[:2]] == ["base", "probe-none"]


def test_sets_at_other_strengths_that_the_run_names_are_no_hindrance(base, run):
    options = replace(run.config.eval, strengths=(0.5, 1.0), strength_sets=("test", "oos"))
    found = generate_run(run.folder, replace(run.config, eval=options), GenerationRequest(prompts=1), base)
    assert [(g.set, g.strength) for g in found.texts] == [("test", 0.0), ("test", 1.0)]


@pytest.mark.parametrize("strength", [math.nan, math.inf])
def test_a_strength_that_is_no_number(strength):
    with pytest.raises(UserError, match="strength must be a finite number, got"):
        GenerationRequest(strength=strength)


def test_texts_at_strength_0_are_not_those_of_the_policy_as_trained(base, run, capsys):
    texts = generate_run(
        run.folder, run.config, GenerationRequest(prompts=1, strength=0.0, sampling=GREEDY), base
    ).texts
    Console(file=sys.stdout, width=200).print(side_by_side(texts))
    assert "dpo x 0" in capsys.readouterr().out


def test_a_set_that_is_not_there(base, run):
    with pytest.raises(UserError, match=r"there is no evaluation set 'tset'; did you mean 'test'"):
        generate_run(run.folder, run.config, GenerationRequest(set="tset"), base)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"holds no generations.jsonl"):
        read_generations(tmp_path)
    (tmp_path / FILE).write_text('{"set": 1}\n')
    with pytest.raises(UserError, match=r"generations.jsonl line 1 is no generated text"):
        read_generations(tmp_path)
