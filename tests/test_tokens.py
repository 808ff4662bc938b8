"""PairTokenizer: one prompt for both responses, closing EOS, truncation on the left (prompt) and right (response)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import build_tokenizer, make_pairs
from innerpo.data.pairs import PreferencePair, cluster_of
from innerpo.data.tokens import PairTokenizer
from innerpo.errors import UserError

TOKENIZER = build_tokenizer()
EOS = TOKENIZER.eos_token_id


def pair(prompt, chosen, rejected):
    return PreferencePair(prompt, chosen, rejected, "p/0", "p", "train", cluster_of(prompt))


def one(prompt, chosen, rejected, max_prompt=64, max_response=64):
    tokens = PairTokenizer(TOKENIZER, max_prompt, max_response)
    items = tokens.training_items([pair(prompt, chosen, rejected)])
    return (items[0] if items else None), tokens.report


def test_item_is_prompt_and_closed_responses():
    item, _ = one("Question: 3 or 7?\nAnswer:", " 7", " 3")
    assert TOKENIZER.decode(item.prompt) == "Question: 3 or 7?\nAnswer:"
    assert [TOKENIZER.decode(r) for r in item.responses] == [" 7<eos>", " 3<eos>"]
    assert [r[-1] for r in item.responses] == [EOS, EOS]
    assert item.pairs == ((0, 1, "p/0"),)
    assert item.characters == (2, 2)


@given(
    st.text(alphabet="ab 7\n", min_size=1, max_size=12),
    st.text(alphabet="ab 7\n", min_size=1, max_size=8),
    st.text(alphabet="ab 7\n", min_size=1, max_size=8),
)
def test_prompt_and_response_spell_the_text_whatever_merges(prompt, chosen, rejected):
    item, report = one(prompt, chosen, rejected)
    if chosen == rejected:
        assert item is None
        assert report.dropped == 1
        return
    for text, ids in zip((chosen, rejected), item.responses, strict=True):
        started = item.prompt if report.started == 0 else ()
        assert TOKENIZER.decode([*started, *ids]) == prompt + text + "<eos>"


def test_long_prompt_loses_its_beginning_and_is_counted():
    item, report = one("one two three four five six seven", " yes", " no", max_prompt=4)
    whole, _ = one("one two three four five six seven", " yes", " no")
    assert item.prompt == whole.prompt[-4:]
    assert (report.prompts_cut, report.responses_cut) == (1, 0)
    assert "1 prompts cut on the left to 4 tokens" in report.line(4, 64)


def test_bos_survives_the_cut():
    tokenizer = build_tokenizer()
    tokens = PairTokenizer(tokenizer, 4, 64)
    tokenizer.bos_token = "<pad>"
    assert tokens._cut_left([0, 5, 6, 7, 8, 9]) == [0, 7, 8, 9]


def test_long_response_keeps_its_beginning_without_eos():
    item, report = one("Q:", " a b c d e f g h", "7", max_response=3)
    whole, _ = one("Q:", " a b c d e f g h", "7")
    assert item.responses[0] == whole.responses[0][:3]
    assert item.responses[0][-1] != EOS
    assert item.responses[1][-1] == EOS
    assert report.responses_cut == 1


def test_responses_that_differ_only_behind_the_cut_are_dropped_and_counted():
    item, report = one("Q:", " a b c d e f yes", " a b c d e f no", max_response=2)
    assert item is None
    assert report.dropped == 1


def test_empty_prompt_gets_a_start_token():
    item, report = one("", "yes", "no")
    assert item.prompt == (EOS,)  # the toy tokenizer has no BOS
    assert report.started == 1


def test_no_bos_unless_the_tokenizer_adds_one():
    item, _ = one("Question", " yes", " no")
    assert list(item.prompt) == TOKENIZER("Question")["input_ids"]


def test_scoring_item_holds_each_response_once():
    base = pair("Q:", " right", " wrong")
    pairs = [replace(base, id="a"), replace(base, rejected=" worse", id="b"), replace(base, rejected=" bad", id="c")]
    (item,) = PairTokenizer(TOKENIZER, 64, 64).scoring_items(pairs)
    assert [TOKENIZER.decode(r) for r in item.responses] == [" right<eos>", " wrong<eos>", " worse<eos>", " bad<eos>"]
    assert item.pairs == ((0, 1, "a"), (0, 2, "b"), (0, 3, "c"))


CHAT = ({"role": "user", "content": "3 or 7?"},)


def chat(text):
    return ({"role": "assistant", "content": text},)


def test_chat_uses_the_template_and_ends_at_eos():
    item, _ = one(CHAT, chat("7"), chat("3"))
    assert TOKENIZER.decode(item.prompt) == "<|user|>3 or 7?<eos>\n<|assistant|>"
    assert [TOKENIZER.decode(r) for r in item.responses] == [
        "7<eos>",
        "3<eos>",
    ]  # the template's "\n" is no token of R_y


def test_chat_without_template_is_an_error():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        PairTokenizer(tokenizer, 64, 64).training_items([pair(CHAT, chat("7"), chat("3"))])


def test_text_mixed_with_messages_is_an_error():
    with pytest.raises(UserError, match="mixes plain text with chat messages"):
        one("Q:", chat("7"), chat("3"))


def test_all_toy_pairs_become_items():
    tokens = PairTokenizer(TOKENIZER, 64, 64)
    assert len(tokens.training_items(make_pairs(12))) == 12
    assert (tokens.report.prompts, tokens.report.responses, tokens.report.dropped) == (12, 24, 0)
