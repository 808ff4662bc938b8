"""PairTokenizer: one prompt for both responses, closing EOS, truncation on the left (prompt) and right (response)."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import build_tokenizer, make_pairs
from innerpo.data.pairs import PreferencePair, cluster_of
from innerpo.data.tokens import PairTokenizer, hash_of_items
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


def test_characters_are_those_of_the_tokens_that_are_left():
    """Else a log-probability per character would have the text of a few tokens in it and the length of all."""
    words = " one" * 40
    item, _ = one("q", words, " no", max_response=5)
    assert item.characters == (len(TOKENIZER.decode(item.responses[0])), 3)
    assert 0 < item.characters[0] < len(words)


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


def with_template(name):
    """The toy tokenizer with a template that TRL ships and the special tokens of its model; EOS stays <eos>."""
    import trl

    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": SPECIAL[name]})
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    return tokenizer


SPECIAL = {
    "qwen2_5": ["<|im_start|>", "<|im_end|>"],
    "gemma3": ["<start_of_turn>", "<end_of_turn>"],
    "cohere2": ["<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"],
    "phi3": ["<|user|>", "<|assistant|>", "<|end|>"],
    "glm4moe": ["<|user|>", "<|assistant|>"],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("template", "response"),
    [
        ("qwen2_5", "7<|im_end|>"),
        ("gemma3", "7<end_of_turn>"),
        ("cohere2", "7<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
        ("phi3", "7<|end|>\n<eos>"),  # the template writes both
        ("glm4moe", "\n<think></think>\n7<eos>"),  # ends a turn with no special token
    ],
)
def test_a_turn_ends_as_its_template_ends_it(template, response):
    tokenizer = with_template(template)
    (item,) = PairTokenizer(tokenizer, 4000, 64).training_items([pair(CHAT, chat("7"), chat("3 "))])
    assert tokenizer.decode(item.responses[0]) == response


def tokens_of_trl(tokenizer, pairs):
    """Prompt, chosen and rejected ids as TRL's DPOTrainer prepares them."""
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DPOTrainer

    def plain(text):
        return text if isinstance(text, str) else [dict(m) for m in text]

    rows = [{name: plain(getattr(p, name)) for name in ("prompt", "chosen", "rejected")} for p in pairs]
    args = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    return DPOTrainer._prepare_dataset(trainer, Dataset.from_list(rows), tokenizer, args, "train")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("template", [None, "qwen2_5", "gemma3", "phi3", "cohere2"])
def test_tokens_are_those_of_trl(template):
    """To the id; only the white space that a template writes behind its end-of-turn token is not ours to train."""
    if template is None:
        tokenizer, pairs = TOKENIZER, [*make_pairs(12), pair("The larger", "7 is.", "3 is<eos>")]
    else:
        tokenizer = with_template(template)
        history = (*CHAT, *chat("3"), {"role": "user", "content": "Sure?"})
        pairs = [pair(CHAT, chat("7"), chat("3 I think")), pair(history, chat("No, 7."), chat("Yes"))]
    items = PairTokenizer(tokenizer, 4000, 400).training_items(pairs)
    for item, theirs in zip(items, tokens_of_trl(tokenizer, pairs), strict=True):
        assert list(item.prompt) == theirs["prompt_ids"]
        for ours, ids in zip(item.responses, (theirs["chosen_ids"], theirs["rejected_ids"]), strict=True):
            assert list(ours) == ids[: len(ours)]
            assert tokenizer.decode(ids[len(ours) :]).strip() == ""


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


def test_longest_sequence_is_the_prompt_with_its_longest_response():
    item, _ = one("Q:", " a b c", " a")
    assert item.longest_sequence == len(item.prompt) + len(item.responses[0]) < item.n_tokens


def test_the_hash_of_items_is_that_of_their_ids_and_of_where_each_begins():
    item = one("Question", " yes", " no")[0]
    moved = replace(item, prompt=(*item.prompt, item.responses[0][0]), responses=(item.responses[0][1:],))
    swapped = replace(item, responses=item.responses[::-1])
    lists = [[item], [item, item], [], [moved], [swapped], [replace(item, prompt=item.prompt[:-1])]]
    regrouped = [replace(item, responses=item.responses[:1]), replace(item, responses=item.responses[1:])]
    assert len({hash_of_items(items) for items in [*lists, regrouped]}) == 7
    same = replace(item, characters=(0, 0), pairs=((1, 0, "other"),), cluster="c")
    assert hash_of_items([same]) == hash_of_items(iter([item]))
    assert hash_of_items([replace(item, prompt=(1,), responses=((2, 300_000), (3,)))]) == "9e7f77f21044afcd745a6622"
