"""Prompts of a test file, looked for in a log whatever is written around them.

A log has a question as it is, behind "User:", or between the marks of a chat template
after a system message. So the user's turns are cut out of a prompt, and what is asked
of every answer ("reason step by step") is taken off them. Texts are compared by their
words and signs; case and spaces do not count.
"""

import functools
import hashlib
import pathlib
import re
from typing import Any, NamedTuple

from rljax.data import logs, record, steps
from rljax.data.record import Record
from rljax.envs.reasoning import problems
from rljax.text.template import POLICY
from rljax.text.tokenizer import Tokenizer

_WORDS = 8  # a test prompt of so many words or more is looked for inside others
_PROMPT_KEYS = ("prompt", "question", "problem")
# What chat templates write as special tokens, if no tokenizer says what is one.
_MARK = (
    r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|</?s>|<(?:bos|eos|pad)>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)
_MARKED = {"[INST]": "user", "[/INST]": POLICY, "<<SYS>>": "system", "<</SYS>>": "user"}
_USERS = {"user", "human", "prompter"}
_SPEAKERS = {
    *_USERS, POLICY, "system", "developer", "model", "gpt", "bot", "tool", "ipython",
}  # fmt: skip
# Labels of plain text, each at the beginning of a line.
_ASKS = ("user", "human", "question", "problem", "instruction", "input", "q")
_ANSWERS = (POLICY, "answer", "response", "solution", "output", "model", "bot", "a")
_LABEL = r"[ \t]*(?:#+[ \t]*|\*\*)?({})[ \t]*:(?:\*\*)?"
_ASKED_OF_ALL = (
    problems.GSM8K_SYSTEM,
    problems.MATH_SYSTEM,
    "Let's think step by step.",
)


class Held(NamedTuple):
    """Prompts of a test file, to be looked for in a log."""

    count: int
    exact: dict[bytes, int]  # digest -> line
    normal: dict[bytes, int]  # of words and signs
    turn: dict[bytes, int]  # of those of the user's turn, without what is around it
    begin: dict[tuple[str, ...], list[tuple[tuple[str, ...], int]]]  # by first words
    tasks: dict[str, int]


class Leak(NamedTuple):
    """How a prompt of a log is in a test file."""

    kind: str
    line: int  # of the test file
    frame: bytes = b""  # digest of the words around it, where it is inside others


def digest(text: str) -> bytes:
    """Sixteen bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


@functools.lru_cache(maxsize=16)
def marks(tokenizer: Tokenizer | None = None) -> re.Pattern[str]:
    """What is no word of a prompt: special tokens.

    Args:
      tokenizer: whose they are, beside those of the usual chat templates.
    """
    own = []
    if tokenizer is not None:
        own = tokenizer.convert_ids_to_tokens(list(steps.special_ids(tokenizer)))
    escaped = map(re.escape, sorted(own, key=len, reverse=True))
    return re.compile("(" + "|".join([*escaped, _MARK]) + ")")


def held_out(path: str | pathlib.Path, tokenizer: Tokenizer | None = None) -> Held:
    """The prompts of a test file.

    Args:
      path: JSON lines, each with `prompt`, `question`, `problem` or `conversations`;
        compressed or not.
      tokenizer: as of `marks`.

    Raises:
      LogError: if a line cannot be read or has none of these, or there is no line.
    """
    held = Held(0, {}, {}, {}, {}, {})
    count, cut = 0, marks(tokenizer)
    for line, values in logs.objects(path):
        if isinstance(values, logs.BadLine):
            raise logs.LogError(str(values))
        text = _prompt_in(values)
        if text is None:
            known = ", ".join((*_PROMPT_KEYS, "conversations"))
            raise logs.LogError(
                f"{path}, line {line}: there is no prompt; any of {known}"
            )
        count += 1
        held.exact.setdefault(digest(text), line)
        held.normal.setdefault(_key(text), line)
        asked = turns(text, cut)
        question = asked[0] if len(asked) == 1 else text
        if len(asked) == 1:
            held.turn.setdefault(_key(question), line)
        if len(question.split()) >= _WORDS:
            words = _words(question)
            held.begin.setdefault(words[:_WORDS], []).append((words, line))
        if values.get("task") not in (None, ""):
            held.tasks.setdefault(str(values["task"]), line)
    if not count:
        raise logs.LogError(f"{path} is empty: it holds no prompt")
    return held._replace(count=count)


def find(held: Held, attempt: Record, prompt: str, cut: re.Pattern[str]) -> Leak | None:
    """How the prompt of an attempt is in a test file, the surest way first.

    Args:
      held: of the test file.
      attempt: a line of a log.
      prompt: what the policy read first, as text.
      cut: as from `marks`.

    Returns:
      None if it is not there.
    """
    if (line := held.exact.get(digest(prompt))) is not None:
        return Leak("exact", line)
    if (line := held.normal.get(_key(prompt))) is not None:
        return Leak("normal", line)
    said = [message.text for message in attempt.messages if message.role == "user"]
    for text in [prompt, *said]:
        for asked in turns(text, cut):
            if (line := held.turn.get(_key(asked))) is not None:
                return Leak("turn", line)
    if attempt.task and (line := held.tasks.get(attempt.task)) is not None:
        return Leak("task", line)
    return _inside(held, _words("\n".join(said) or prompt))


@functools.lru_cache(maxsize=1024)
def turns(text: str, cut: re.Pattern[str]) -> tuple[str, ...]:
    """What the user says in a prompt, without marks, labels and common instructions.

    A text without marks and labels is the user's as a whole.

    Args:
      text: of the prompt.
      cut: as from `marks`.
    """
    found = []
    role, named = "", False  # who speaks, and whether nothing was said since
    for place, piece in enumerate(cut.split(text)):
        if place % 2:
            own = _role_of(piece)
            if own or not named:
                role, named = own, bool(own)
            continue
        first, _, rest = piece.lstrip().partition("\n")
        if place and not named and first.strip().lower() in _SPEAKERS:
            role, named, piece = first.strip().lower(), True, rest
        if piece.strip():
            named = False
            if not role or role in _USERS:
                found += map(_bare, _unlabelled(piece.strip()))
    return tuple(filter(None, found))


def _role_of(mark: str) -> str:
    """Whom a special token names: "<|user|>" does, "<|im_start|>" does not."""
    name = mark.strip("<>|｜").lower()
    return _MARKED.get(mark, name if name in _SPEAKERS else "")


def _unlabelled(text: str) -> list[str]:
    """What stands behind labels of the user, such as "User:", or the whole text.

    Where it begins with one label and ends with another, as "Question: ... Answer:"
    does, it is cut wherever a line begins with one of the two.
    """
    asks, answers = (_LABEL.format("|".join(n)) for n in (_ASKS, _ANSWERS))
    begin = re.match(f"{asks}|{_LABEL.format('system')}", text, re.I)
    end = re.search(f"(?:^|\n){answers}\\s*$", text, re.I)
    if begin is None or end is None:
        stop = len(text) if end is None else end.start()
        asked = begin is not None and begin[1] is not None
        return [text[begin.end() : stop] if begin and asked else text[:stop]]
    names = [begin[1] or "system", end[1]] + ([] if begin[1] else ["user", "human"])
    labels = _LABEL.format("|".join(map(re.escape, names)))
    _, *parts = re.split(f"^{labels}", text, flags=re.I | re.M)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [said for name, said in pairs if name.lower() in _ASKS]


def _bare(text: str) -> str:
    text = text.strip()
    for words in _ASKED_OF_ALL:
        text = text.removeprefix(words).removesuffix(words).strip()
    return text


def _inside(held: Held, words: tuple[str, ...]) -> Leak | None:
    for place in range(len(words) - _WORDS + 1):
        for other, line in held.begin.get(words[place : place + _WORDS], ()):
            stop = place + len(other)
            if words[place:stop] == other:
                frame = " ".join([*words[:place], "\0", *words[stop:]])
                return Leak("inside", line, digest(frame))
    return None


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+|[^\w\s]", text.lower()))


def _key(text: str) -> bytes:
    return digest(" ".join(_words(text)))


def _prompt_in(values: Any) -> str | None:
    if not isinstance(values, dict):
        return None
    for key in _PROMPT_KEYS:
        if isinstance(values.get(key), str):
            return values[key]
    try:
        talk = record.messages(values.get("conversations"))
    except ValueError:
        return None
    first = [i for i, message in enumerate(talk) if message.role == POLICY]
    asked = talk[: first[0]] if first else talk
    return "\n".join(message.text for message in asked if message.role == "user")
