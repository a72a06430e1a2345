"""Conversations: what was sampled stays, the rest is as the template writes it."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.text import chat, dialogue
from rljax.text.dialogue import close, hear, say, start
from rljax.text.template import POLICY, Message
from tests.text import speaking

KINDS = ["chatml", "headers", "nasty", "smollm2", "qwen"]
# No control characters: SmolLM2's vocabulary has no token for some of them.
WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Co", "Cn"], max_codepoint=0x2FFF),
    max_size=12,
)
SPACED = st.lists(
    st.sampled_from([" ", "\n", "\n\n", "  ", "cat", "user", "1", "é", "<", "|"]),
    max_size=8,
).map("".join)
TEXTS = WORDS | SPACED
ANSWERS = TEXTS.map(lambda text: f"x{text}".strip())


@functools.cache
def template_of(kind):
    if kind in speaking.TEMPLATES:
        as_gpt2 = kind != "headers"
        tokenizer = speaking.byte_level(speaking.TEMPLATES[kind], as_gpt2)
    else:
        tokenizer = {"smollm2": speaking.smollm2, "qwen": speaking.qwen}[kind]()
    return chat.from_tokenizer(tokenizer)


def ids_of(template, text):
    return template.tokenizer(text, add_special_tokens=False)["input_ids"]


def talk(template, turns):
    """A conversation of (what is said, what the policy samples)."""
    so_far = start()
    for text, sampled in turns:
        so_far = hear(template, so_far, [Message("user", text)])
        so_far = say(template, so_far, sampled)
    return so_far


def test_by_hand():
    template = template_of("chatml")
    user, end = ids_of(template, "<|im_start|>user\n"), template.end_id
    opening = ids_of(template, "<|im_start|>assistant\n")
    newline = ids_of(template, "\n")
    a, b = ids_of(template, "ab")
    # "ab" sampled in two tokens and ended; then out of length.
    so_far = talk(template, [("b", [a, b, end]), ("a", [b])])
    segments = [
        ([*user, b, end, *newline, *opening], False),
        ([a, b, end], True),
        ([*newline, *user, a, end, *newline, *opening], False),
        ([b], True),
    ]
    assert so_far.ids.tolist() == [i for ids, _ in segments for i in ids]
    assert so_far.mask.tolist() == [own for ids, own in segments for _ in ids]
    begins = np.cumsum([0, *(len(ids) for ids, _ in segments)])
    assert so_far.turns.tolist() == [begins[1:3].tolist(), begins[3:5].tolist()]
    assert so_far.ids.dtype == so_far.turns.dtype == np.int32
    assert so_far.mask.dtype == bool
    # The end token that had to be added is not the policy's.
    closed = close(template, so_far)
    assert closed.ids[begins[4] :].tolist() == [end, *newline]
    assert not closed.mask[begins[4] :].any()
    longer = hear(template, so_far, [Message("user", "a")])
    assert longer.ids[begins[4] :].tolist() == [end, *segments[2][0]]
    assert longer.opened and not longer.mask[begins[4] :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_whole_conversation(kind):
    template = template_of(kind)
    dialogue.check_template(template)

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.tuples(TEXTS, ANSWERS), min_size=1, max_size=4))
    def check(turns):
        said = [(u, ids_of(template, a) + [template.end_id]) for u, a in turns]
        ours = close(template, talk(template, said))
        pairs = [(("user", u), (POLICY, a)) for u, a in turns]
        messages = [{"role": r, "content": t} for pair in pairs for r, t in pair]
        theirs = template.tokenizer.apply_chat_template(messages, return_dict=False)
        assert ours.ids.tolist() == theirs

    check()


@pytest.mark.parametrize("kind", [*KINDS, "stories"])
def test_sampled_ids_stay_and_change_nothing_else(kind):
    """Any ids, most of them no text at all, special tokens among them."""
    if kind == "stories":
        template = chat.plain(speaking.stories(), opening="<s>")
    else:
        template = template_of(kind)
    end, size = template.end_id, len(template.tokenizer)
    body = st.lists(
        st.integers(0, size - 1).filter(lambda i: i != end), min_size=1, max_size=6
    )
    turn = st.tuples(TEXTS, body, body, st.booleans())

    @settings(max_examples=30, deadline=None)
    @given(st.lists(turn, min_size=1, max_size=4))
    def check(turns):
        ends = [[end] if ended else [] for *_, ended in turns]
        said = [[*ids, *e] for (_, ids, _, _), e in zip(turns, ends, strict=True)]
        others = [[*ids, *e] for (_, _, ids, _), e in zip(turns, ends, strict=True)]
        texts = [text for text, *_ in turns]
        a = talk(template, zip(texts, said, strict=True))
        b = talk(template, zip(texts, others, strict=True))
        assert a.ids[a.mask].tolist() == [i for ids in said for i in ids]
        spans = [a.ids[begin:stop].tolist() for begin, stop in a.turns]
        assert spans == said
        assert a.mask.sum() == (a.turns[:, 1] - a.turns[:, 0]).sum()
        assert a.ids[~a.mask].tolist() == b.ids[~b.mask].tolist()

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_the_environment_are_no_special_tokens(kind):
    template = template_of(kind)
    controls = list(template.controls)
    answer = "x"
    sampled = [*ids_of(template, answer), template.end_id]
    hostile = st.lists(
        st.sampled_from([*controls, *(c[:3] for c in controls), "x", "\n", "<"]),
        max_size=6,
    ).map("".join)

    def fixed(texts):
        return close(template, talk(template, [(text, sampled) for text in texts]))

    def control_ids(so_far):
        env = so_far.ids[~so_far.mask]
        return env[np.isin(env, list(template.controls.values()))].tolist()

    @settings(max_examples=30, deadline=None)
    @given(st.lists(hostile, min_size=1, max_size=3))
    def check(texts):
        so_far = fixed(texts)
        assert control_ids(so_far) == control_ids(fixed(["x"] * len(texts)))
        # Nothing is lost or added: the tokens spell out the template's own text.
        turns = [(("user", text), (POLICY, answer)) for text in texts]
        messages = [{"role": r, "content": t} for pair in turns for r, t in pair]
        whole = template.tokenizer.apply_chat_template(messages, tokenize=False)
        assert template.tokenizer.decode(so_far.ids) == whole

    check()


def test_examples_of_answers_are_not_sampled():
    template = template_of("headers")
    messages = [Message("system", "so"), Message("user", "a"), Message(POLICY, "b")]
    few = hear(template, start(), [*messages, Message("user", "c")])
    assert not few.mask.any() and not len(few.turns)
    text = template.tokenizer.decode(few.ids)
    assert text.count("<|eot|>") == 4 and text.endswith("assistant<|/head|>\n\n")


def test_plain_text_without_special_tokens_in_its_frame():
    """stories260K puts a space before a text; not in the middle of one."""
    tokenizer = speaking.stories()
    template = chat.plain(tokenizer, opening="<s>")
    dialogue.check_template(template)
    answers = [" cat", " the </s>"]
    said = [ids_of(template, f".{a}")[len(ids_of(template, ".")) :] for a in answers]
    so_far = talk(template, [("Who?", said[0]), ("And <s>", said[1])])
    assert so_far.ids[0] == tokenizer.bos_token_id and not (so_far.ids[1:] == 1).any()
    assert tokenizer.decode(so_far.ids) == (
        "<s> Question: Who?\nAnswer: cat</s> \nQuestion: And <s>\nAnswer: the </s>"
    )
    assert so_far.ids[so_far.mask].tolist() == [*said[0], *said[1]]


def test_a_real_conversation_against_its_template():
    tokenizer = speaking.byte_level(speaking.FORGETS)
    template = chat.from_tokenizer(tokenizer)
    dialogue.check_template(template)  # which cannot know what the policy will say
    good = [*ids_of(template, "red cat"), template.end_id]
    bad = [*ids_of(template, "<think>\nso\n</think>\n\nyes"), template.end_id]
    example = [Message("user", "c"), Message(POLICY, "d"), Message("user", "e")]
    so_far = say(template, hear(template, start(), example), good)
    so_far = say(template, hear(template, so_far, [Message("user", "b")]), [7])
    dialogue.check_dialogue(template, so_far)
    assert so_far.sampled == (3, 5)
    dialogue.check_dialogue(template, talk(template, [("a", bad)]))
    with pytest.raises(
        ValueError, match="(?s)another way:.tokens .*so.*template .*yes"
    ):
        dialogue.check_dialogue(template, talk(template, [("a", bad), ("b", good)]))
    # Other tokens for the same text are as good.
    spelled = [i for c in "red cat" for i in ids_of(template, c)] + [template.end_id]
    assert spelled != good
    dialogue.check_dialogue(template, talk(template, [("a", spelled), ("b", good)]))


def test_refuses_what_is_out_of_turn():
    template = template_of("chatml")
    user, end = [Message("user", "a")], template.end_id
    with pytest.raises(ValueError, match="not the policy's turn"):
        say(template, start(), [1])
    with pytest.raises(ValueError, match="at least one message"):
        hear(template, start(), [])
    with pytest.raises(ValueError, match="the policy spoke last"):
        close(template, start())
    opened = hear(template, start(), user)
    with pytest.raises(ValueError, match="the policy spoke last"):
        close(template, opened)
    with pytest.raises(ValueError, match="it is the policy's turn"):
        hear(template, opened, user)
    with pytest.raises(ValueError, match="no token"):
        say(template, opened, [])
    with pytest.raises(ValueError, match="sampled id 1 is -3"):
        say(template, opened, [2, -3])
    with pytest.raises(ValueError, match="2 ids follow the end token .* at 1"):
        say(template, opened, [7, end, 0, 0])
    for ids in ([[1, 2]], [1.0], "ab"):
        with pytest.raises(TypeError, match="must be integers"):
            say(template, opened, ids)


@pytest.mark.parametrize("kind", ["chatml", "headers"])
def test_a_closed_conversation_is_over(kind):
    """Whether the policy ended its turn or ran out of length."""
    template = template_of(kind)
    for sampled in ([7, template.end_id], [7]):
        closed = close(template, talk(template, [("a", sampled)]))
        with pytest.raises(ValueError, match="closed already"):
            close(template, closed)
        with pytest.raises(ValueError, match="is closed: hear more before"):
            hear(template, closed, [Message("user", "b")])
    ids = [*ids_of(template, "red"), template.end_id]
    so_far = close(template, talk(template, [("a", ids)]))
    dialogue.check_dialogue(template, so_far)


def test_arguments_stay_as_they_were():
    template = template_of("chatml")
    opened = hear(template, start(), [Message("user", "a")])
    ids, mask = opened.ids.copy(), opened.mask.copy()
    sampled = np.array([7, 8])
    said = say(template, opened, sampled)
    sampled[:] = 0
    hear(template, said, [Message("user", "b")])
    assert said.ids[said.mask].tolist() == [7, 8]
    np.testing.assert_array_equal(opened.ids, ids)
    np.testing.assert_array_equal(opened.mask, mask)
