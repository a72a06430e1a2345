"""What an audit keeps of each attempt, and how it tells what it finds.

Texts are not kept, only digests of them, so that a log larger than memory can be
looked over.
"""

import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rljax.data import audit_leaks, episodes, steps
from rljax.data.audit_leaks import Held, Leak, digest
from rljax.data.record import Record
from rljax.text import dialogue
from rljax.text import tokenizer as tokenizer_lib
from rljax.text.template import POLICY, Template
from rljax.text.tokenizer import Tokenizer
from rljax.types import Episode

SEVERITIES = ("error", "warning", "note")


class Place(NamedTuple):
    """A line of a log."""

    log: int  # which of those that are looked at, from 0 on
    line: int  # from 1 on


class Finding(NamedTuple):
    """One thing that was found, or looked for and not found."""

    kind: str  # a short name, always the same for the same kind
    severity: str  # "error" where training must not begin, "warning" or "note"
    text: str
    count: int = 0  # of lines or groups that it is about
    places: tuple[Place, ...] = ()  # all of them


class Table(NamedTuple):
    """Numbers behind the findings."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]  # texts and numbers; shares lie in [0, 1]


class Row(NamedTuple):
    """What is kept of an attempt."""

    place: Place
    reward: float
    task: str
    named: bool  # the log says which task it is
    source: str
    prompt: bytes  # digest
    same: bytes  # digest of prompt and response
    length: int  # tokens of the policy, or characters where there is no tokenizer
    tokens: int | None  # of the episode; None where there is no tokenizer
    begin: int  # of these, those before the policy's first; 0 where there is none
    truncated: bool
    flags: frozenset[str]  # of `FLAGS`
    unknown: tuple[str, ...]
    leak: Leak | None  # how the prompt is in the test file


FLAGS = {
    "text": "the response in text is not what its ids spell",
    "round trip": "the tokenizer changes the response: its tokens spell another text",
    "prompt changed": "the tokenizer changes the prompt: its tokens spell another text",
    "message changed": "the tokenizer changes a message: its tokens spell another text",
    "no end": "the last token is no end token, and the attempt is not marked truncated",
    "late end": "an end token stands before the last token of a turn",
    "space": "the prompt ends with a space, which tokenizers join to the next word",
    "special": "the prompt in text holds special tokens, read as such",
    "empty": "the response is empty",
    "closing": "words after the policy's last turn are left out: no action follows",
    "template": "the chat template would write the conversation in another way",
    "chat": "is a conversation",
    "unread": "the prompt is of token ids: without a tokenizer it is not looked for in "
    "the test file",
}


def look(
    attempt: Record,
    episode: Episode | None = None,
    tokenizer: Tokenizer | None = None,
    template: Template | None = None,
    end_ids: Sequence[int] = (),
    held: Held | None = None,
    log: int = 0,
) -> Row:
    """What is kept of an attempt.

    Args:
      attempt: a line of a log.
      episode: its tokens; without them some things cannot be looked at.
      tokenizer: whose they are.
      template: how conversations are written.
      end_ids: tokens that end what the policy says.
      held: test prompts.
      log: number of the log that the line is of.
    """
    prompt, response = _texts(attempt, episode, tokenizer)
    flags = _flags(attempt, prompt, response)
    if episode is not None and tokenizer is not None:
        flags |= _token_flags(attempt, episode, tokenizer, end_ids)
    if template is not None and attempt.messages and attempt.ids is None:
        try:
            talk = episodes.conversation(attempt, template)
            dialogue.check_dialogue(template, talk)
        except ValueError:
            flags.add("template")
    leak = None
    if held is not None:
        cut = audit_leaks.marks(tokenizer)
        leak = audit_leaks.find(held, attempt, prompt, cut)
        spelt = episode is not None and tokenizer is not None
        if attempt.prompt is None and not attempt.messages and not spelt:
            flags.add("unread")
    length = len(response) if episode is None else int(episode.action.sum())
    return Row(
        place=Place(log, attempt.line),
        reward=attempt.reward,
        task=attempt.task or episodes.task_of(attempt),
        named=bool(attempt.task),
        source=attempt.source,
        prompt=digest(prompt),
        same=digest(prompt + "\0" + response),
        length=length,
        tokens=None if episode is None else len(episode.ids),
        begin=0 if episode is None else int(np.argmax(episode.action)),
        truncated=attempt.truncated,
        flags=frozenset(flags),
        unknown=attempt.unknown,
        leak=leak,
    )


def _texts(
    attempt: Record, episode: Episode | None, tokenizer: Tokenizer | None
) -> tuple[str, str]:
    """What the policy read first, and all that came then, as texts."""
    if attempt.messages:
        first = next(
            i for i, message in enumerate(attempt.messages) if message.role == POLICY
        )
        asked = [m.text for m in attempt.messages[:first] if m.role == "user"]
        rest = [list(message) for message in attempt.messages[first:]]
        return "\n".join(asked), json.dumps(rest)
    if attempt.prompt is not None and attempt.response is not None:
        return attempt.prompt, attempt.response
    if episode is not None and tokenizer is not None:
        begin = int(np.argmax(episode.action))
        rows = episode.ids[:begin], episode.ids[begin:]
        prompt, response = (tokenizer.decode(row) for row in rows)
        return prompt, response
    if attempt.ids is not None and attempt.action is not None:
        begin = int(np.argmax(attempt.action))
        return str(attempt.ids[:begin].tolist()), str(attempt.ids[begin:].tolist())
    ids = [
        np.asarray(row).tolist() for row in (attempt.prompt_ids, attempt.response_ids)
    ]
    return str(ids[0]), str(ids[1])


def _flags(attempt: Record, prompt: str, response: str) -> set[str]:
    flags = set()
    if attempt.messages:
        flags.add("chat")
        if any(m.role == POLICY and not m.text.strip() for m in attempt.messages):
            flags.add("empty")
    elif not response.strip():
        flags.add("empty")
    if attempt.prompt is not None and attempt.response_ids is None:
        if prompt != prompt.rstrip(" "):
            flags.add("space")
    if episodes.closing(attempt):
        flags.add("closing")
    return flags


def _token_flags(
    attempt: Record, episode: Episode, tokenizer: Tokenizer, end_ids: Sequence[int]
) -> set[str]:
    flags = set()
    said = episode.ids[episode.action]
    ends = np.isin(episode.ids, end_ids) & episode.action
    given = attempt.response_ids is not None or attempt.ids is not None
    if given:
        if end_ids and not attempt.truncated and said[-1] not in end_ids:
            flags.add("no end")
        if (ends[:-1] & episode.action[1:]).any():
            flags.add("late end")
    if attempt.response is not None:
        spelt = said[:-1] if said[-1] in end_ids else said
        # After its prompt, since some tokenizers drop the space a text begins with.
        before = episode.ids[: int(np.argmax(episode.action))][-1:]
        text = _decode(tokenizer, [*before, *spelt])
        text = text.removeprefix(_decode(tokenizer, before))
        if text != attempt.response:
            flags.add("text" if given else "round trip")
    if attempt.prompt is not None and attempt.prompt_ids is None:
        prompt = episode.ids[: int(np.argmax(episode.action))]
        own = prompt[1:] if prompt[0] == tokenizer.bos_token_id else prompt
        if np.isin(own, steps.special_ids(tokenizer)).any():
            flags.add("special")
        if _changed(tokenizer, attempt.prompt):
            flags.add("prompt changed")
    left_out = len(episodes.closing(attempt))
    talk = attempt.messages[: len(attempt.messages) - left_out]
    if attempt.ids is None and any(
        _changed(tokenizer, message.text) for message in talk
    ):
        flags.add("message changed")
    return flags


@functools.lru_cache(maxsize=4096)
def _changed(tokenizer: Tokenizer, text: str) -> bool:
    """Whether the tokens of a text spell another one.

    A space at its beginning does not count: some tokenizers add it, or drop it.
    """
    (ids,) = tokenizer_lib.encode(tokenizer, [text])
    return _decode(tokenizer, ids).removeprefix(" ") != text.removeprefix(" ")


def _decode(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> str:
    return tokenizer.decode([int(i) for i in ids], clean_up_tokenization_spaces=False)


def places(rows: Iterable[Row]) -> tuple[Place, ...]:
    """Where they are, in their order."""
    return tuple(row.place for row in rows)


def shape(reason: str) -> str:
    """A reason without what differs from line to line: numbers and quoted texts."""
    first = reason.splitlines()[0]
    return re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[\d,.]*\d", "…", first)
