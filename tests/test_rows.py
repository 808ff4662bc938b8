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
        {"prompt": [], "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"prompt": [USER], "chosen": [BLUE | {"tool_calls": None}], "rejected": [GREEN], "tools": None},
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
        (GOOD | {"chosen": [BLUE], "rejected": [GREEN]}, "chat messages that do not begin with it"),
        (GOOD | {"tools": [{"name": "f"}]}, "has tools, which InnerPO does not pass on"),
        ({"chosen": [USER, BLUE | {"tool_calls": [1]}], "rejected": [USER, GREEN]}, "has a message with tool_calls"),
        ({"chosen": [USER, BLUE, USER, BLUE], "rejected": [USER, GREEN]}, "turns are: assistant, user, assistant"),
        ({"chosen": [USER, BLUE], "rejected": [USER, GREEN, USER, BLUE]}, "rejected must be one assistant turn"),
        ({"chosen": [USER, BLUE, USER], "rejected": [USER, BLUE, GREEN]}, "turns are: user"),
        ({"prompt": [USER], "chosen": [USER, BLUE], "rejected": [GREEN]}, "turns are: user, assistant"),
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


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "row",
    [
        GOOD,
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "Q: sky?\nA: It is blue.", "rejected": "Q: sky?\nA: It is green, I think."},
        {"prompt": [SYSTEM, USER], "chosen": [BLUE], "rejected": [GREEN]},
        {"chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"chosen": [SYSTEM, USER, GREEN, USER, BLUE], "rejected": [SYSTEM, USER, GREEN, USER, GREEN]},
        {"prompt": "Sky?", "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
    ],
)
def test_prompts_are_those_of_trl(row):
    from trl.data_utils import maybe_extract_prompt

    theirs = maybe_extract_prompt({k: row[k] for k in row})
    ours = pair(row)
    for name in ("prompt", "chosen", "rejected"):
        text = getattr(ours, name)
        assert (text if isinstance(text, str) else [dict(m) for m in text]) == theirs[name]
