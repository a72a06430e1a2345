"""Test questions in a log: found in every form of a prompt, and only as a whole."""

import functools

import pytest

from experiments import prompts
from rljax.data import audit, audit_leaks, episodes
from rljax.envs.reasoning import problems
from rljax.text import chat
from tests.data import auditing
from tests.data.auditing import save
from tests.text import speaking

LONG = "Natalia sold 48 clips in April and half as many in May. How many in all?"
SHORT = "How many in May?"
OTHER = "Tom sold three clips in April and twice as many later. How many in May?"
FORMS = [
    *((name, "chatml") for name in prompts.PROMPTS),
    ("chat", "nasty"),
    ("chat", "headers"),
]
# As other families write a user's turn; "{}" is the question.
FAMILIES = {
    "llama 2": "<s>[INST] <<SYS>>\nBe good.\n<</SYS>>\n\n{} [/INST]",
    "llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe good."
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
    "phi": "<|system|>\nBe good.<|end|>\n<|user|>\n{}<|end|>\n<|assistant|>\n",
    "deepseek": "<｜begin▁of▁sentence｜><｜User｜>{}<｜Assistant｜><think>\n",
    "plain": "Question: {}\nAnswer:",
    "several": "Q: Is it?\nA: Yes.\n\nQ: {}\nA:",
    "alpaca": "### Instruction:\n{}\n\n### Response:\n",
    "system": "System: Be good.\nUser: {}\nAssistant:",
}


def write(form, question):
    """A prompt as `experiments.prompts` writes it for a tokenizer with a template."""
    name, template = form
    tokens = speaking.byte_level(speaking.TEMPLATES[template])
    return prompts.PROMPTS[name](tokens, problems.GSM8K_SYSTEM).write(question)


def leaks(tmp_path, asked, tested, tokenizer=None):
    """Findings on a log of these prompts; a text, or the messages before an answer."""
    rows = [
        {"prompt": prompt, "response": f" {n}", "reward": n % 2}
        if isinstance(prompt, str)
        else {
            "conversations": [*prompt, {"role": "assistant", "content": f"{n}"}],
            "reward": n % 2,
        }
        for n, prompt in enumerate(asked)
    ]
    log = save(tmp_path / "log", [*auditing.clean(), *rows])
    test = save(tmp_path / "test", [{"question": question} for question in tested])
    held = audit_leaks.held_out(test, tokenizer)
    make = template = None
    if tokenizer is not None:
        template = chat.from_tokenizer(tokenizer)
        make = functools.partial(
            episodes.tokenise, tokenizer=tokenizer, template=template
        )
    found = audit.audit(log, make, tokenizer, template, held=held)
    told = [f for f in found.findings if f.kind.startswith("leakage")]
    assert found.errors == sum(f.severity == "error" for f in told)
    return {f.kind: (f.severity, f.count) for f in told}


@pytest.mark.parametrize("question", [LONG, SHORT, "17+25*3=?"])
@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_a_log_of_test_questions_is_an_error_in_every_form(tmp_path, form, question):
    prompt = write(form, question)
    (found,) = leaks(tmp_path, [prompt] * 3, ["unseen", question]).values()
    assert found == ("error", 3)
    (found,) = leaks(tmp_path, [prompt], ["x", prompt, question]).values()
    assert found == ("error", 1)
    # A test file may be written in a form, and the log as it is.
    (found,) = leaks(tmp_path, [question], ["x", prompt]).values()
    assert found == ("error", 1)


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_a_short_question_inside_another_is_none(tmp_path, form):
    prompt = write(form, OTHER)
    assert leaks(tmp_path, [prompt] * 3, [SHORT, "Is it?"]) == {"leakage": ("note", 0)}


@pytest.mark.parametrize("family", FAMILIES)
def test_templates_of_others(tmp_path, family):
    for question in (LONG, SHORT):
        prompt = FAMILIES[family].replace("{}", question)
        found = leaks(tmp_path, [prompt], ["unseen", question])
        assert found == {"leakage turn": ("error", 1)}
    prompt = FAMILIES[family].replace("{}", OTHER)
    assert leaks(tmp_path, [prompt], [SHORT]) == {"leakage": ("note", 0)}


def test_special_tokens_of_the_tokenizer_are_no_words(tmp_path):
    tokens = speaking.byte_level()
    names = {"<|im_start|>": "<S>", "<|im_end|>": "<E>"}
    prompt = write(("chat", "chatml"), SHORT)
    for name, other in names.items():
        prompt = prompt.replace(name, other)
    assert leaks(tmp_path, [prompt], [SHORT]) == {"leakage": ("note", 0)}

    class Renamed:
        """A tokenizer with such names."""

        all_special_ids = (1, 2)
        added_tokens_decoder: dict = {}

        def convert_ids_to_tokens(self, ids):
            return [list(names.values())[i - 1] for i in ids]

    assert audit_leaks.turns(prompt, audit_leaks.marks(Renamed())) == (SHORT,)
    prompt = write(("chat", "chatml"), SHORT)
    found = leaks(tmp_path, [prompt], [SHORT], tokens)
    assert found == {"leakage turn": ("error", 1)}


def test_every_turn_of_a_conversation_is_looked_at(tmp_path):
    def talk(*texts):
        return [
            {"role": "user" if n % 2 else "system", "content": text}
            for n, text in enumerate(texts)
        ]

    plain = [{"role": "user", "content": problems.deepseek_math(SHORT)}]
    later = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": SHORT},
    ]
    found = leaks(tmp_path, [talk("Be good.", SHORT), plain, later], [SHORT])
    assert found == {"leakage exact": ("error", 1), "leakage turn": ("error", 2)}
    assert leaks(tmp_path, [talk(SHORT, OTHER)], [SHORT]) == {"leakage": ("note", 0)}


def test_the_same_words_around_several_test_questions_are_a_template(tmp_path):
    second = "A train goes at 60 km/h for 2.5 hours. How far does it go?"
    frame = "Here is something to think about: {} Say it in a box."
    one = leaks(tmp_path, [frame.format(LONG)] * 3, [LONG, second])
    assert one == {"leakage inside": ("warning", 3)}
    asked = [frame.format(LONG), frame.format(second)]
    found = leaks(tmp_path, asked, [LONG, second])
    assert found == {"leakage framed": ("error", 2)}


def test_questions_that_differ_in_a_sign_are_two(tmp_path):
    asked = ["Question: 3 - 4\nAnswer:", "Question: 3.4\nAnswer:"]
    assert leaks(tmp_path, asked, ["3 + 4", "34"]) == {"leakage": ("note", 0)}
    found = leaks(tmp_path, asked, ["3-4"])
    assert found == {"leakage turn": ("error", 1)}


def test_choices_are_part_of_a_question(tmp_path):
    """Lines that begin with A: are none of the policy's answers."""
    asked = "Question: Which one?\nA: red\nB: blue\nAnswer:"
    assert leaks(tmp_path, [asked], ["Which one?"]) == {"leakage": ("note", 0)}


def test_prompts_of_ids_alone_are_not_said_to_be_no_test_questions(tmp_path):
    tokens = speaking.byte_level()

    def found(row, with_tokenizer):
        rows = [row | {"reward": n} for n in range(2)]
        log = save(tmp_path / "log", rows)
        test = save(tmp_path / "test", [{"question": SHORT}])
        given = tokens if with_tokenizer else None
        held = audit_leaks.held_out(test, given)
        make = functools.partial(episodes.tokenise, tokenizer=tokens)
        there = audit.audit(log, make if given else None, given, held=held)
        return {f.kind: (f.severity, f.count) for f in there.findings}

    ids = tokens(SHORT, add_special_tokens=False)["input_ids"]
    row = {"prompt_ids": ids, "response_ids": [9]}
    told = found(row, False)
    assert told["unread"] == ("warning", 2) and told["leakage"] == ("note", 0)
    told = found(row, True)
    assert "unread" not in told and told["leakage exact"] == ("error", 2)
