"""Chat: answers as generate writes them, each side's history, log-probabilities under both, commands, interrupts."""

import io
import math
import sys

import pytest
import torch

import innerpo
from conftest import build_model, build_tokenizer
from families import FAST, SLOW
from innerpo.cli import main
from innerpo.cli.chat_loop import COMMANDS
from innerpo.data.tokens import PairTokenizer
from innerpo.evaluation.chat import Conversation
from innerpo.model.adapters import add_adapter
from innerpo.model.base import Base, reference_mode
from innerpo.model.generation import GenerationPrompt, generate
from innerpo.model.sampling import Sampling
from innerpo.model.streaming import stream
from innerpo.model.strength import at_strength
from sharing_helpers import move, toy_run

GREEDY = Sampling(max_new_tokens=6)
DRAWN = Sampling(max_new_tokens=6, sample=True, temperature=0.8, top_p=0.9, seed=3)


def pair(family="llama", plain_tokenizer=False, **changes):
    tokenizer = build_tokenizer()
    if plain_tokenizer:
        tokenizer.chat_template = None
    base = Base(build_model(family, **changes), tokenizer, "toy", "toy")
    policy = add_adapter(base, innerpo.ModelConfig(lora_r=4), seed=1)
    return base, move(policy, 0.1, "lora_B").eval()


@pytest.fixture
def talk():
    return Conversation(*pair(), sampling=GREEDY)


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_tokens_come_one_by_one_and_are_those_of_generate(family, sampling):
    base, policy = pair(family)
    tokens = PairTokenizer(base.tokenizer, 64, 64)
    for text in ("Question: 3 or 7?", "the cat sat on the mat and ran"):
        prompt = GenerationPrompt(*tokens.generation_prompt(text), key=text)
        (whole,) = generate(policy, base, [prompt], sampling)
        assert tuple(stream(policy, base, prompt, sampling)) == whole.ids


@pytest.mark.filterwarnings("ignore:.*fast path.*", "ignore:.*mamba.*")
@pytest.mark.parametrize("kind", ["mamba", "mamba2", "recurrent_gemma"])
def test_a_recurrent_model_talks_too(kind):
    """Its cache has another name, or is none that it returns."""
    model = next(f for f in (*FAST, *SLOW) if f.model_type == kind).build()
    base = Base(model.requires_grad_(False), build_tokenizer(), "toy", "toy")
    tokens = PairTokenizer(base.tokenizer, 64, 64)
    prompt = GenerationPrompt(*tokens.generation_prompt("Question: 3 or 7?"), key="")
    (whole,) = generate(base.model, base, [prompt], GREEDY)
    assert tuple(stream(base.model, base, prompt, GREEDY)) == whole.ids


def by_hand(model, prompt, ids):
    """Sum of log-probabilities of an answer's tokens, by one plain forward pass."""
    with torch.no_grad():
        logps = model(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
    return sum(logps[len(prompt) - 1 + i, token].item() for i, token in enumerate(ids))


def test_each_side_goes_on_from_its_own_answers_and_both_judge_each(talk):
    talk.set_strength(0.5)
    first = talk.both("the cat")
    assert first[0].text != first[1].text
    shown = []
    second = talk.both("and 7?", lambda side, text: shown.append((side, text)))
    for said, answer in zip(first, second, strict=True):
        messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": said.text}]
        messages.append({"role": "user", "content": "and 7?"})
        prompt = talk.base.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        close = talk.base.tokenizer.eos_token_id
        with at_strength(talk.policy, 0.5, talk.base.model):
            if answer.side == "base":
                with reference_mode(talk.policy):
                    (written,) = generate(
                        talk.base.model, talk.base, [GenerationPrompt(tuple(prompt), close, "")], GREEDY
                    )
            else:
                (written,) = generate(talk.policy, talk.base, [GenerationPrompt(tuple(prompt), close, "")], GREEDY)
            logp_policy = by_hand(talk.policy, prompt, written.ids)
        with reference_mode(talk.policy):
            logp_base = by_hand(talk.base.model, prompt, written.ids)
        assert answer.tokens == len(written.ids)
        assert answer.logp_policy == pytest.approx(logp_policy, abs=1e-3)
        assert answer.logp_base == pytest.approx(logp_base, abs=1e-3)
        assert answer.by("base") == (answer.logp_base, answer.logp_base / answer.tokens)
        assert shown[[s for s, _ in shown].count("base") - 1 if answer.side == "base" else -1] == (
            answer.side,
            answer.text,
        )
    assert abs(second[0].logp_base - second[0].logp_policy) > 0.01
    assert [len(talk.history[side]) for side in ("base", "policy")] == [4, 4]


def test_reset_strength_and_temperature(talk):
    own, theirs = talk.both("the cat")
    talk.reset()
    talk.set_strength(0.0)
    again = talk.both("the cat")
    assert (again[0].text, again[0].logp_base) == (own.text, own.logp_base)
    assert again[1].text == own.text != theirs.text
    assert again[1].logp_policy == pytest.approx(again[1].logp_base)
    talk.set_temperature(0.7)
    assert (talk.sampling.sample, talk.sampling.temperature) == (True, 0.7)
    talk.set_temperature(0.0)
    assert (talk.sampling.sample, talk.sampling.temperature) == (False, 1.0)
    with pytest.raises(innerpo.UserError, match="must be 0"):
        talk.set_temperature(-1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_strength_and_temperature_are_finite(talk, value):
    before = talk.strength, talk.sampling
    for change in (talk.set_strength, talk.set_temperature):
        with pytest.raises(innerpo.UserError, match=rf"finite.*, got {value:g}"):
            change(value)
    assert (talk.strength, talk.sampling) == before


@pytest.mark.parametrize("how", [{"plain": True}, {}], ids=["plain", "no template"])
def test_without_a_template_a_prompt_stands_alone(how):
    talk = Conversation(*pair(plain_tokenizer=not how), sampling=GREEDY, **how)
    first, _, again = talk.both("the cat"), talk.both("and"), talk.both("the cat")
    assert not talk.by_template
    assert [a.text for a in first] == [a.text for a in again]


@pytest.mark.parametrize(("how", "why"), [({"plain": True}, "plain is set"), ({}, "the tokenizer of toy has none")])
def test_without_a_template_a_system_turn_is_refused(how, why):
    with pytest.raises(innerpo.UserError, match=f"a system turn needs a chat template, and {why}; leave system out"):
        Conversation(*pair(plain_tokenizer=not how), sampling=GREEDY, system="Be brief.", **how)


def test_an_interrupt_stops_one_answer_and_the_next_begins(talk):
    whole = talk.both("the cat")
    talk.reset()

    def stop(side, text):
        seen.append(side)
        if seen == ["base"] * 2:
            raise KeyboardInterrupt

    seen = []
    own, theirs = talk.both("the cat", stop)
    assert (own.tokens, own.ended) == (2, False)
    assert whole[0].text.startswith(own.text)
    assert math.isfinite(own.logp_base)
    assert (theirs.text, theirs.tokens) == (whole[1].text, whole[1].tokens)
    assert not talk.policy.base_model.model.model.layers[0].self_attn.q_proj.disable_adapters
    assert talk.history["base"][-1]["content"] == own.text


def test_an_answer_that_was_stopped_at_once_has_no_log_probability(talk, monkeypatch):
    def at_once(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("innerpo.evaluation.chat.stream", at_once)
    own, _ = talk.both("the cat")
    assert (own.text, own.tokens) == ("", 0)
    assert math.isnan(own.logp_base)


def test_a_conversation_that_is_too_long_is_refused_and_not_remembered():
    talk = Conversation(*pair(max_position_embeddings=40), sampling=GREEDY)
    talk.both("the cat")
    with pytest.raises(innerpo.UserError, match=r"the conversation has \d+ tokens, which with 6 new ones do not fit"):
        talk.both("sat on the mat and ran " * 3)
    assert len(talk.history["base"]) == 2
    talk.reset()
    talk.both("the cat")


def test_a_system_turn_opens_every_conversation():
    talk = Conversation(*pair(), sampling=GREEDY, system="Be brief.")
    talk.both("the cat")
    talk.reset()
    assert talk.history["base"] == [{"role": "system", "content": "Be brief."}]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(toy_folder, tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("chat"), toy_folder)


def piped(monkeypatch, capsys, words, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert main(words) == 0
    return capsys.readouterr()


def test_prompts_are_piped_in_line_by_line(run, monkeypatch, capsys):
    words = ["chat", str(run), "--max_new_tokens=4", "--model.dtype=float32"]
    text = "the cat\n/strength 0\n\n/reset\nthe cat\n/temperature x\n/strenght 1\n/help\n/quit\nnever\n"
    found = piped(monkeypatch, capsys, words, text)
    lines = found.out.splitlines()
    assert lines.count("> the cat") == 2
    assert "never" not in found.out
    assert sum(line.startswith("[dpo] ") for line in lines) == sum(line.startswith("[base] ") for line in lines) == 2
    judged = [line for line in lines if line.startswith("  log p under dpo: ")]
    assert len(judged) == 4
    assert judged[2] == judged[3]  # at strength 0 both answers are the base's
    assert judged[0] != judged[1]
    assert "strength 0" in found.err
    assert "error: /temperature takes a number, not 'x'" in found.err
    assert "error: there is no command /strenght; did you mean '/strength'" in found.err
    assert all(name in found.err for name in COMMANDS)


def test_texts_stay_as_they_are(run, monkeypatch, capsys):
    found = piped(monkeypatch, capsys, ["chat", str(run), "--max_new_tokens=2"], "a :warning: sign [bold]\n/quit\n")
    assert "> a :warning: sign [bold]\n" in found.out


@pytest.mark.parametrize("errors", ["surrogateescape", "strict"])
def test_bytes_that_are_no_text_are_replaced(run, monkeypatch, capsys, errors):
    given = io.TextIOWrapper(io.BytesIO(b"caf\xe9\nthe cat\n"), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", given)
    assert main(["chat", str(run), "--plain", "--max_new_tokens=2"]) == 0
    out = capsys.readouterr().out
    assert "> caf\N{REPLACEMENT CHARACTER}\n" in out
    assert "> the cat\n" in out


def test_the_end_of_the_input_ends_the_program_and_draws_are_the_same_each_time(run, monkeypatch, capsys):
    words = ["chat", str(run), "--max_new_tokens=4", "--temperature=1", "--seed=3", "--plain"]
    once, again = (piped(monkeypatch, capsys, words, "the cat\nthe cat\n").out for _ in range(2))
    assert once == again
    first, second = (part.splitlines()[1] for part in once.split("> the cat")[1:])
    assert first != second  # another turn, other draws


def test_a_terminal_shows_two_columns(run, monkeypatch, capsys):
    from rich.console import Console

    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr("innerpo.cli.chat_loop.stdout", console)
    piped(monkeypatch, capsys, ["chat", str(run), "--max_new_tokens=4"], "the cat\n")
    last = shown.getvalue().split("\n")
    assert any("base" in line and "dpo" in line for line in last)
    assert any(line.count("log p under base: ") == 2 for line in last)


def test_what_goes_wrong_is_one_line(run, tmp_path, capsys):
    for words, says in (
        (["chat", "nowhere"], "there is no folder nowhere"),
        (["chat", str(tmp_path)], "holds no adapter_config.json"),
        (["chat", str(run), "--temperature=-1"], "the temperature must be 0 (greedy) or above, got -1"),
        (["chat", str(run), "--strength=nan"], "the strength must be a finite number, got nan"),
        (["chat", str(run), "--plain", "--system=Be brief."], "a system turn needs a chat template"),
        (["chat", str(run), "--max_new_tokens=0"], "max_new_tokens must be at least 1"),
    ):
        assert main(words) == 2
        assert says in " ".join(capsys.readouterr().err.split())
