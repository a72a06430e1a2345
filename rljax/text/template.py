"""Conversations written by a template, and their tokens a segment at a time.

A policy's turns are kept as the ids it sampled, so a template never sees their
text. What stands between two of them, from where the policy stopped to where it
speaks again, is one segment: the difference of two renderings, in which a fixed
answer stands for whatever the policy said. A template that changes what was
written before (drops the thinking of earlier turns, say) is refused, since the
tokens a policy was conditioned on cannot be taken back.

Words of the environment are never read as special tokens: a message that holds
"<|im_end|>" is cut inside it and tokenized as the characters that it is.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rljax.text import tokenizer as tokenizer_lib
from rljax.text.tokenizer import Tokenizer, UnknownWordError

POLICY = "assistant"
_ANCHORS = (".", "a", "\n")


class Message(NamedTuple):
    """What one side says."""

    role: str  # "system", "user", ...; POLICY in examples of how to answer
    text: str


class Part(NamedTuple):
    """A stretch of a segment."""

    text: str
    own: bool  # the template's own, in which special tokens count


class Template(NamedTuple):
    """How conversations are written under a tokenizer; `chat` makes them."""

    tokenizer: Tokenizer
    # Messages, and whether the policy's turn is opened after them -> text.
    render: Callable[[Sequence[Message], bool], str]
    said: str  # stands for what the policy says where text is asked for
    lead: str  # space before it, which the policy says itself
    end: str  # text of the token that ends a policy's turn
    end_id: int
    controls: dict[str, int]  # tokens that nobody but template and policy can say
    anchors: tuple[str, ...]  # texts after which a text is in the middle of one


def make(
    tokenizer: Tokenizer,
    render: Callable[[Sequence[Message], bool], str],
    said: str,
    source: str,
) -> Template:
    """A template from a function that writes whole conversations.

    Args:
      tokenizer: a Hugging Face tokenizer.
      render: from messages, and whether the policy's turn is opened after them, to
        text; pure.
      said: an answer of the form that the policy's will have.
      source: text in which whatever the template writes by itself occurs. Added
        tokens that occur in it are kept from messages, as special tokens are.

    Raises:
      ValueError: if an answer is written in another way than its opening begins, or
        a turn is not closed with a special token.
    """
    lead, close = _around(render, [Message("user", "Hello")], said)
    controls = _controls(tokenizer, source)
    ends = [token for token in controls if close.startswith(token)]
    if not ends:
        raise ValueError(
            f"the policy's turn is closed by {close!r}; expected a special token at "
            "its beginning, for the policy to stop with"
        )
    end = max(ends, key=len)
    anchors = tuple(text for text in _ANCHORS if _known(tokenizer, text))
    return Template(
        tokenizer, render, said, lead, end, controls[end], controls, anchors
    )


def segment(
    template: Template,
    earlier: Sequence[Message],
    new: Sequence[Message],
    ended: bool = True,
) -> list[Part]:
    """What stands between the policy's last token and its next.

    Args:
      template: how it is written.
      earlier: the conversation so far, up to and with the policy's last turn, its
        text `said`; empty at the beginning.
      new: what is said now.
      ended: whether the policy's last token was the end token, which is then left
        out here.

    Raises:
      ValueError: if the template rewrites what stood before, changes a message by
        more than spaces at its ends, or leaves one out; with both texts.
    """
    before = template.render(earlier, False) if earlier else ""
    marks = [f"\ue000{i}\ue000" for i in range(len(new))]
    marked = [
        Message(message.role, mark) for message, mark in zip(new, marks, strict=True)
    ]
    framed = template.render([*earlier, *marked], True)
    whole = template.render([*earlier, *new], True)
    for text in (framed, whole):
        if not text.startswith(before):
            raise ValueError(
                "the chat template rewrites earlier turns when the conversation goes "
                f"on:\nbefore {before!r}\nafter  {text!r}\n{_REMEDY}"
            )
    parts = _fill(framed[len(before) :], marks, new, whole[len(before) :])
    if not earlier:
        return parts
    return [Part(closing(template, earlier, ended), True), *parts]


def closing(template: Template, messages: Sequence[Message], ended: bool) -> str:
    """What closes the policy's turn after its last token.

    Args:
      template: how it is written.
      messages: up to and with the policy's turn, its text `said`.
      ended: whether the policy's last token was the end token.

    Raises:
      ValueError: if the template writes the answer in another way than its opening
        of the policy's turn begins, or does not close it with `end`.
    """
    lead, close = _around(template.render, messages[:-1], template.said)
    if lead != template.lead or not close.startswith(template.end):
        raise ValueError(
            f"the chat template writes this turn as {lead!r}, answer, {close!r}, and "
            f"the first as {template.lead!r}, answer, {template.end!r}"
        )
    return close[len(template.end) :] if ended else close


def encode(
    template: Template, parts: Sequence[Part], context: str | None
) -> np.ndarray:
    """Tokens of a segment; special tokens only where the template wrote them.

    Args:
      template: whose tokenizer to use.
      parts: the segment.
      context: text right before it: "" at the beginning of a conversation, `end`
        after the end token, None after other tokens of the policy.

    Returns:
      int32 [T].

    Raises:
      ValueError: if a message would become a special token even so, or a word is
        unknown to the tokenizer.
    """
    pattern = re.compile(
        "|".join(map(re.escape, sorted(template.controls, key=len, reverse=True)))
    )
    pieces = [""]
    for text, own in parts:
        first, *rest = [text] if own else _cut(text, pattern)
        pieces = [*pieces[:-1], pieces[-1] + first, *rest]
    contexts = [context, *[None] * (len(pieces) - 1)]
    rows = [
        _in_context(template, text, before)
        for text, before in zip(pieces, contexts, strict=True)
    ]
    ids = np.concatenate(rows).astype(np.int32)
    frame = "".join(text for text, own in parts if own)
    (meant,) = tokenizer_lib.encode(template.tokenizer, [frame])
    controls = list(template.controls.values())
    if np.isin(ids, controls).sum() != np.isin(meant, controls).sum():
        raise ValueError(
            f"a message becomes a special token: {[p.text for p in parts if not p.own]}"
            f" is {tokenizer_lib.show(template.tokenizer, ids)}"
        )
    return ids


_REMEDY = (
    "The policy has read what stood before. Give chat_template a text that keeps it, "
    "use chat.plain, or keep to conversations of one turn."
)


def _around(
    render: Callable[[Sequence[Message], bool], str],
    earlier: Sequence[Message],
    said: str,
) -> tuple[str, str]:
    """What a template writes between opening and answer, and after the answer."""
    opened = render(earlier, True)
    whole = render([*earlier, Message(POLICY, said)], False)
    lead, found, close = whole[len(opened) :].partition(said)
    if not whole.startswith(opened) or not found or lead.strip():
        raise ValueError(
            f"the chat template opens the policy's turn as\n{opened!r}\nbut writes it, "
            f"with the answer {said!r}, as\n{whole!r}\nGive `said` an answer of the "
            "form it expects, or chat_template a text that keeps answers as they are."
        )
    return lead, close


def _fill(
    framed: str, marks: Sequence[str], new: Sequence[Message], whole: str
) -> list[Part]:
    """Cuts a rendering into the template's own text and that of messages."""
    frames = []
    for mark in marks:
        if framed.count(mark) != 1:
            raise ValueError(
                f"the chat template writes a message {framed.count(mark)} times, or "
                f"not where it is said: {whole!r}"
            )
        frame, _, framed = framed.partition(mark)
        frames.append(frame)
    frames.append(framed)
    parts, rest = [Part(frames[0], True)], whole.removeprefix(frames[0])
    for message, frame in zip(new, frames[1:], strict=True):
        text = message.text
        forms = [text, text.strip(), text.rstrip(), text.lstrip()]
        text = next((t for t in forms if rest.startswith(t + frame)), text)
        parts += [Part(text, False), Part(frame, True)]
        rest = rest[len(text + frame) :]
    if "".join(part.text for part in parts) != whole:
        raise ValueError(
            "the chat template changes messages by more than spaces at their ends:\n"
            f"said    {[message.text for message in new]}\nwritten {whole!r}\n{_REMEDY}"
        )
    return parts


def _cut(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Cut after the first character of whatever matches."""
    pieces = []
    while match := pattern.search(text):
        pieces.append(text[: match.start() + 1])
        text = text[match.start() + 1 :]
    return [*pieces, text]


def _in_context(template: Template, text: str, context: str | None) -> np.ndarray:
    error: ValueError | None = None
    for before in template.anchors if context is None else (context,):
        try:
            (ids,) = tokenizer_lib.encode(template.tokenizer, [text], [before])
            return ids
        except UnknownWordError:
            raise
        except ValueError as found:  # joined with what stands before
            error = found
    raise ValueError(f"{text!r} has no tokens of its own: {error}") from error


def _controls(tokenizer: Tokenizer, source: str) -> dict[str, int]:
    """Special tokens, and other added tokens but space that the template writes."""
    found = dict(
        zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    )
    for i, token in tokenizer.added_tokens_decoder.items():
        if token.special or (token.content.strip() and token.content in source):
            found[token.content] = i
    return found


def _known(tokenizer: Tokenizer, text: str) -> bool:
    try:
        tokenizer_lib.encode(tokenizer, [text])
    except UnknownWordError:
        return False
    return True
