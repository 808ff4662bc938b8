"""Rows to pairs: TRL's formats, and the reason for every row that is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innerpo.data.pairs import cluster_of
from innerpo.data.sources.parse import BadRowError, common_root
from source_helpers import BLUE, GOOD, GREEN, USER, pair


def test_explicit_and_implicit_prompts_in_text_and_messages():
    explicit = pair(GOOD)
    assert (explicit.prompt, explicit.chosen, explicit.rejected) == ("Sky?", " blue", " green")
    assert explicit.cluster == cluster_of("Sky?")
    implicit = pair({"chosen": "The sky is blue.", "rejected": "The sky is bluish green."})
    assert (implicit.prompt, implicit.chosen, implicit.rejected) == ("The sky is", " blue.", " bluish green.")
    for row in (
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
        {"chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"prompt": "Sky?", "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"prompt": [USER], "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
    ):
        chat = pair(row)
        assert (chat.prompt, chat.chosen, chat.rejected) == ((USER,), (BLUE,), (GREEN,))


def test_messages_keep_role_and_content_only():
    chat = pair({"chosen": [USER | {"name": None}, BLUE], "rejected": [USER | {"name": None}, GREEN]})
    assert chat.prompt == (USER,)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b"}, "no column 'rejected' (columns: prompt, chosen)"),
        (["a"], "not a record with named columns but list"),
        (GOOD | {"chosen": 3}, "chosen is int, not text"),
        (GOOD | {"chosen": None}, "chosen is missing"),
        (GOOD | {"chosen": " \n"}, "chosen is empty"),
        (GOOD | {"rejected": ""}, "rejected is empty"),
        (GOOD | {"rejected": " blue"}, "identical"),
        ({"chosen": "same words", "rejected": "same words"}, "identical"),
        ({"chosen": "", "rejected": "words"}, "chosen is empty"),
        ({"chosen": "yes", "rejected": "no"}, "share no leading words"),
        ({"chosen": [BLUE], "rejected": [GREEN]}, "share no leading messages"),
        ({"chosen": [USER], "rejected": [USER, GREEN]}, "chosen is empty"),
        (GOOD | {"chosen": [BLUE]}, "one of chosen and rejected is text"),
        (GOOD | {"prompt": [USER]}, "prompt is chat messages"),
        ({"chosen": [{"role": "user"}], "rejected": [GREEN]}, "without role and content"),
    ],
)
def test_a_bad_row_says_what_is_wrong(row, reason):
    with pytest.raises(BadRowError) as caught:
        pair(row)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("a", "b", "root"),
    [
        ("I like tea", "I like tears", "I like"),  # no word is split
        ("I like", "I like tea", "I"),  # neither is left with nothing
        ("I like ", "I like tea", "I"),
        ("because  Joe is", "because  Joe was", "because  Joe"),
        ("Q: x\nA: yes", "Q: x\nA: no", "Q: x\nA:"),
        ("yes", "no", ""),
        ("", "", ""),
    ],
)
def test_common_root_by_hand(a, b, root):
    assert common_root(a, b) == root


words = st.text(alphabet="ab \n", max_size=12)


@given(words, words, words)
def test_common_root_is_shared_whole_and_leaves_something(start, end_a, end_b):
    a, b = start + end_a, start + end_b
    root = common_root(a, b)
    assert a.startswith(root)
    assert b.startswith(root)
    if root:
        assert not root[-1].isspace()
        for rest in (a[len(root) :], b[len(root) :]):
            assert rest[0].isspace()
            assert rest.strip()
