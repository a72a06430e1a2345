"""Conversations as tokens, of which it is known who said each.

    dialogue = start()
    dialogue = hear(template, dialogue, [Message("user", "1 + 1?")])
    dialogue = say(template, dialogue, ids_that_the_policy_sampled)
    dialogue = hear(template, dialogue, [Message("user", "Wrong. Again.")])
    ...

What the policy sampled stays as it was sampled: it is never turned into text and
back. `hear` adds what the environment says and opens the policy's turn. Everything
here is pure and works on the host. Shapes: T tokens, K turns of the policy.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rljax.text import template as template_lib
from rljax.text import tokenizer as tokenizer_lib
from rljax.text.template import POLICY, Message, Part, Template


class Dialogue(NamedTuple):
    """A conversation so far."""

    ids: np.ndarray  # int32 [T]
    mask: np.ndarray  # bool [T], sampled by the policy
    turns: np.ndarray  # int32 [K, 2], where each of its turns begins and ends
    messages: tuple[Message, ...]  # those sampled hold `template.said`
    sampled: tuple[int, ...]  # which messages were, one for each of the turns
    opened: bool  # the policy speaks next
    closed: bool = False  # nothing can follow


PROBE = (Message("user", "Is it so?"), Message("user", "And now, what?"))


def start() -> Dialogue:
    """A conversation in which nothing was said."""
    return Dialogue(
        ids=np.zeros(0, np.int32),
        mask=np.zeros(0, bool),
        turns=np.zeros((0, 2), np.int32),
        messages=(),
        sampled=(),
        opened=False,
    )


def hear(
    template: Template, dialogue: Dialogue, messages: Sequence[Message]
) -> Dialogue:
    """Adds what is said to the policy, and opens its turn.

    Where the policy ran out of length, the token that ends its turn is added first;
    it is not the policy's, and the mask says so.

    Args:
      template: how it is written.
      dialogue: so far.
      messages: at least one; with the role `template.POLICY`, an example of an answer.

    Raises:
      ValueError: if there is no message, the policy's turn is open already, the
        conversation is closed, or the template cannot go on; see `template.segment`.
    """
    if dialogue.opened:
        raise ValueError(
            "it is the policy's turn: say what it sampled before it hears more"
        )
    if dialogue.closed:
        raise ValueError(
            "the conversation is closed: hear more before `close`, with what `say` gave"
        )
    if not messages:
        raise ValueError("there is nothing to hear: give at least one message")
    context, ended = _stands(template, dialogue)
    parts = template_lib.segment(template, dialogue.messages, messages, ended)
    ids = template_lib.encode(template, parts, context)
    return _add(dialogue, ids, False)._replace(
        messages=(*dialogue.messages, *messages), opened=True
    )


def say(template: Template, dialogue: Dialogue, ids: Any) -> Dialogue:
    """Adds what the policy sampled, token by token as it is.

    Args:
      template: says which token ends a turn.
      dialogue: with the policy's turn open.
      ids: int [n], n at least 1, its end token among them if it was sampled. A stop
        string is the policy's own text; the end token is added after it.

    Raises:
      ValueError: if it is not the policy's turn, there are no ids, one is negative,
        or they go on after the end token.
      TypeError: if `ids` are not a list of integers.
    """
    if not dialogue.opened:
        raise ValueError("it is not the policy's turn: let it hear something before")
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise TypeError(
            f"sampled ids must be integers [n], got {ids.dtype} {list(ids.shape)}"
        )
    if not ids.size:
        raise ValueError("the policy sampled no token; a turn has at least one")
    if ids.min() < 0:
        where = int(np.argmin(ids))
        raise ValueError(f"sampled id {where} is {ids[where]}; ids are not negative")
    ends = np.flatnonzero(ids[:-1] == template.end_id)
    if ends.size:
        raise ValueError(
            f"{len(ids) - 1 - ends[0]} ids follow the end token {template.end!r} at "
            f"{ends[0]}: leave out what comes after it"
        )
    begin = len(dialogue.ids)
    turn = np.array([[begin, begin + len(ids)]], np.int32)
    return _add(dialogue, ids.astype(np.int32), True)._replace(
        messages=(*dialogue.messages, Message(POLICY, template.said)),
        sampled=(*dialogue.sampled, len(dialogue.messages)),
        turns=np.concatenate([dialogue.turns, turn]),
        opened=False,
    )


def close(template: Template, dialogue: Dialogue) -> Dialogue:
    """Adds what the template writes after the policy's last turn.

    Training does not need it; with it a conversation is as the template writes it, and
    over.

    Raises:
      ValueError: if the policy did not speak last, or the conversation is closed.
    """
    if dialogue.closed:
        raise ValueError("the conversation is closed already; close it once")
    if dialogue.opened or not len(dialogue.turns):
        raise ValueError("only a conversation in which the policy spoke last is closed")
    context, ended = _stands(template, dialogue)
    text = template_lib.closing(template, dialogue.messages, ended)
    ids = template_lib.encode(template, [Part(text, True)], context)
    return _add(dialogue, ids, False)._replace(closed=True)


def check_template(template: Template, messages: Sequence[Message] = PROBE) -> None:
    """Compares a conversation put together turn by turn with the template's own text.

    The policy answers each message with `template.said`. For a run of one turn, give
    one message.

    Args:
      template: what to check.
      messages: what is said to the policy, a turn each.

    Raises:
      ValueError: if the template cannot go on after a turn, or the tokens differ; it
        shows both.
    """
    dialogue = start()
    answer = template.lead + template.said + template.end
    for message in messages:
        dialogue = hear(template, dialogue, [message])
        text = template.render(dialogue.messages, True)
        (ids,) = tokenizer_lib.encode(template.tokenizer, [answer], [text])
        dialogue = say(template, dialogue, ids)
    ours = close(template, dialogue).ids
    text = template.render(dialogue.messages, False)
    (theirs,) = tokenizer_lib.encode(template.tokenizer, [text])
    if not np.array_equal(ours, theirs):
        raise ValueError(
            f"turn by turn the tokens differ from those of the whole text {text!r}:\n"
            f"by turns {tokenizer_lib.show(template.tokenizer, ours)}\n"
            f"whole    {tokenizer_lib.show(template.tokenizer, theirs)}"
        )


def check_dialogue(template: Template, dialogue: Dialogue) -> None:
    """Compares a real conversation with the template's rendering of what was said.

    `check_template` knows one form of answer; a template may treat what a policy
    really says in another way (strip its spaces, drop its thinking). Texts are
    compared, since the policy is free to spell a text with other tokens than the
    tokenizer would.

    Args:
      template: how it is written.
      dialogue: the policy spoke last; closed or not.

    Raises:
      ValueError: if the texts differ; it shows both.
    """
    if not dialogue.closed:
        dialogue = close(template, dialogue)
    messages = list(dialogue.messages)
    for place, (begin, stop) in zip(dialogue.sampled, dialogue.turns, strict=True):
        text = template.tokenizer.decode(dialogue.ids[begin:stop])
        text = text.removesuffix(template.end).removeprefix(template.lead)
        messages[place] = Message(POLICY, text)
    text = template.render(messages, False)
    (whole,) = tokenizer_lib.encode(template.tokenizer, [text])
    theirs, ours = map(template.tokenizer.decode, (whole, dialogue.ids))
    if ours != theirs:
        raise ValueError(
            "the template would write this conversation in another way:\n"
            f"tokens   {ours!r}\ntemplate {theirs!r}"
        )


def _stands(template: Template, dialogue: Dialogue) -> tuple[str | None, bool]:
    """The text before what comes next, and whether it ended the policy's turn."""
    if not len(dialogue.ids):
        return "", False
    ended = bool(dialogue.ids[-1] == template.end_id)
    return (template.end if ended else None), ended


def _add(dialogue: Dialogue, ids: np.ndarray, sampled: bool) -> Dialogue:
    return dialogue._replace(
        ids=np.concatenate([dialogue.ids, ids]),
        mask=np.concatenate([dialogue.mask, np.full(len(ids), sampled)]),
    )
