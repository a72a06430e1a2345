"""Logged attempts as tokens, each marked as the policy's or not.

    log = load("log.jsonl.gz", tokenizer, on_error="skip", rejects="rejects.jsonl")
    log.episodes[0].action  # what a loss may touch

Only tokens of the policy are actions: the response and its end token, or the turns of
the assistant. Texts become tokens once, here; ids that were logged stay as they are.
Shapes: T tokens.
"""

import contextlib
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rljax.data import logs, record, steps
from rljax.data.record import Record
from rljax.text import dialogue
from rljax.text import template as template_lib
from rljax.text import tokenizer as tokenizer_lib
from rljax.text.template import POLICY, Message, Template
from rljax.text.tokenizer import Tokenizer
from rljax.types import Episode

_LINES = steps.split()


class Log(NamedTuple):
    """A log that was read, or several."""

    episodes: list[Episode]  # in the order of the logs
    skipped: list[logs.BadLine]  # lines that could not be used
    closing: list[tuple[str, int]]  # log and line whose last words are left out
    unknown: dict[str, int]  # keys that mean nothing here, and how many lines have them


def load(
    path: str | pathlib.Path | Sequence[str | pathlib.Path],
    tokenizer: Tokenizer,
    template: Template | None = None,
    split: steps.Split = _LINES,
    *,
    on_error: str = "stop",
    rejects: str | pathlib.Path | None = None,
    longest: int | None = None,
    end_id: int | None = None,
) -> Log:
    """Whole logs as episodes; about 9 bytes a token stay in memory.

    Args:
      path: as of `logs.read`; of several, one is read after the other.
      tokenizer: of the policy.
      template: how conversations are written, where there are some.
      split: numbers the steps; lines are steps unless given.
      on_error: "stop" at a line that cannot be used, or "skip" it.
      rejects: with "skip", the file they are written to.
      longest: most tokens of an episode; a longer one cannot be used.
      end_id: the token that ends a response in plain form, the tokenizer's end token
        unless given.

    Raises:
      LogError: at such a line, with file, number and reason; if a file cannot be
        read; or if no line of one can be used.
      ValueError: for another `on_error`, "skip" without `rejects`, or no path.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'stop' or 'skip'")
    if on_error == "skip" and rejects is None:
        raise ValueError("on_error='skip' needs a file for the lines: give rejects")
    paths = [path] if isinstance(path, str | pathlib.Path) else list(path)
    if not paths:
        raise ValueError("there is no log to read")
    if rejects is not None and _resolved(rejects) in map(_resolved, paths):
        raise ValueError(f"rejects is the log itself, {rejects}: name another file")

    def make(attempt: Record) -> Episode:
        episode = tokenise(attempt, tokenizer, template, split, end_id=end_id)
        if longest is not None and len(episode.ids) > longest:
            raise ValueError(
                f"has {len(episode.ids)} tokens, but a row holds {longest}: allow "
                "longer rows, or leave the line out with on_error=skip"
            )
        return episode

    log = Log([], [], [], {})
    with contextlib.ExitStack() as stack:
        refuse, skipped = logs.stop, log.skipped
        if on_error == "skip" and rejects is not None:
            refuse, skipped = stack.enter_context(logs.skipping(rejects))
        for one in paths:
            known, refused = len(log.episodes), len(skipped)
            for attempt, episode in each(one, make, refuse):
                several = str(one) if len(paths) > 1 else ""
                log.episodes.append(episode._replace(log=several))
                if closing(attempt):
                    log.closing.append((str(one), attempt.line))
                for key in attempt.unknown:
                    log.unknown[key] = log.unknown.get(key, 0) + 1
            if len(log.episodes) == known:
                raise logs.LogError(_useless(one, skipped[refused:]))
    return log._replace(skipped=skipped)


def _useless(path: str | pathlib.Path, skipped: Sequence[logs.BadLine]) -> str:
    if not skipped:
        return f"{path} is empty"
    return (
        f"{path} holds no attempt that can be used, and {len(skipped)} lines that "
        f"cannot; the first is line {skipped[0].line}: {skipped[0].reason}"
    )


def told(log: Log) -> list[str]:
    """What a run has to say of a log before it trains on it, a line each.

    Args:
      log: as from `load`.
    """
    said = [f"{len(log.episodes):,} attempts"]
    if log.skipped:
        first = log.skipped[0]
        said.append(
            f"{len(log.skipped):,} lines skipped, the first is line {first.line} of "
            f"{first.path}: {first.reason.splitlines()[0]}"
        )
    if log.closing:
        path, line = log.closing[0]
        said.append(
            f"{len(log.closing):,} conversations go on after the policy's last turn, "
            f"the first in line {line} of {path}: what comes then is left out"
        )
    for key, count in log.unknown.items():
        near = record.nearest(key)
        meant = f"; was {near!r} meant?" if near else ""
        said.append(f"the key {key!r} means nothing here, in {count:,} lines{meant}")
    return said


def each(
    path: str | pathlib.Path,
    make: Callable[[Record], Episode],
    refuse: logs.Refuse = logs.stop,
) -> Iterator[tuple[Record, Episode]]:
    """Records with their episodes, one after the other.

    Args:
      path: as of `logs.read`.
      make: such as `tokenise` with all but its record given; a line for which it
        raises ValueError cannot be used.
      refuse: what to do with such lines, and with those that `logs.read` refuses.
    """
    for attempt in logs.read(path, refuse):
        try:
            episode = make(attempt)
        except ValueError as error:
            raw = logs.dumps(record.to_json(attempt))
            refuse(logs.BadLine(str(path), attempt.line, str(error), raw))
            continue
        yield attempt, episode


def tokenise(
    attempt: Record,
    tokenizer: Tokenizer,
    template: Template | None = None,
    split: steps.Split = _LINES,
    *,
    end_id: int | None = None,
) -> Episode:
    """The tokens of an attempt.

    A response is tokenised after its prompt and without joining the two; then comes
    the end token, unless the attempt was cut short. In a prompt special tokens are
    read as such, since a prompt may be a chat template's text; in what the policy
    said in text they are refused. What comes after the policy's last turn is left
    out: no action follows it.

    Args:
      attempt: a line of a log.
      tokenizer: of the policy.
      template: how conversations are written; its tokenizer is the same.
      split: numbers the steps, where the log does not.
      end_id: as of `load`.

    Raises:
      ValueError: if text cannot become tokens, is joined across a border, holds a
        special token, an id is outside the vocabulary, or a template is missing.
    """
    if attempt.ids is not None and attempt.action is not None:
        ids, action = attempt.ids, attempt.action
    elif attempt.messages:
        talk = conversation(attempt, template)
        ids, action = talk.ids, talk.mask
    else:
        ids, action = _plain(attempt, tokenizer, end_id)
    _check(ids, action, len(tokenizer))
    if attempt.step is not None:
        step = _spread(attempt.step, action, -1)
    elif attempt.steps:
        step = steps.at([len(text) for text in attempt.steps])(tokenizer, ids, action)
    else:
        step = split(tokenizer, ids, action)
    given = attempt.log_probs
    return Episode(
        ids=ids,
        action=action,
        step=step,
        reward=attempt.reward,
        task=attempt.task or task_of(attempt),
        source=attempt.source,
        line=attempt.line,
        log_probs=None if given is None else _spread(given, action, 0.0),
    )


def prompt_ids(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Tokens of a prompt: what the tokenizer puts before a text, then the text.

    Generation from the same text has to begin with the same tokens.

    Args:
      tokenizer: any Hugging Face tokenizer.
      text: the prompt; special tokens in it are read as such.

    Returns:
      int32 [P].

    Raises:
      ValueError: if there is no token, or a word is unknown to the tokenizer.
    """
    ids = _text_ids(tokenizer, text)
    first = tokenizer("", add_special_tokens=True)["input_ids"][:1]
    # A text that begins with that token in words has it already.
    if first and first[0] == tokenizer.bos_token_id and ids[:1].tolist() != first:
        ids = np.concatenate([np.asarray(first, np.int32), ids])
    if not len(ids):
        raise ValueError("the prompt is empty, and the tokenizer begins with no token")
    return ids


def task_of(attempt: Record) -> str:
    """A name that attempts share which begin alike: a digest of the prompt.

    It counts what comes before the policy's first turn.
    """
    if attempt.messages:
        begin = itertools.takewhile(lambda m: m.role != POLICY, attempt.messages)
        what = repr([tuple(message) for message in begin])
    elif attempt.prompt is not None:
        what = attempt.prompt
    elif attempt.ids is not None and attempt.action is not None:
        what = repr(attempt.ids[: int(np.argmax(attempt.action))].tolist())
    else:
        what = repr(np.asarray(attempt.prompt_ids).tolist())
    return "prompt " + hashlib.blake2b(what.encode(), digest_size=8).hexdigest()


def closing(attempt: Record) -> tuple[Message, ...]:
    """Messages after the policy's last turn, which are left out."""
    if attempt.ids is not None:
        return ()
    spoken = [i for i, m in enumerate(attempt.messages) if m.role == POLICY]
    return attempt.messages[spoken[-1] + 1 :] if spoken else ()


def _plain(
    attempt: Record, tokenizer: Tokenizer, end_id: int | None
) -> tuple[np.ndarray, np.ndarray]:
    prompt, said = attempt.prompt_ids, attempt.response_ids
    if prompt is None:
        prompt = prompt_ids(tokenizer, attempt.prompt or "")
    if said is None:
        said = _said(tokenizer, attempt.response or "", attempt.prompt or "")
        if not attempt.truncated:
            end = tokenizer.eos_token_id if end_id is None else end_id
            if end is None:
                raise ValueError("the tokenizer has no end token (eos_token)")
            said = np.append(said, np.int32(end))
    if not len(said):
        raise ValueError("the response has no token")
    return _marked([(prompt, False), (said, True)])


def conversation(attempt: Record, template: Template | None) -> dialogue.Dialogue:
    """A logged conversation, up to the policy's last turn, as tokens.

    Args:
      attempt: of the chat form.
      template: how it is written.

    Raises:
      ValueError: if there is no template, the policy speaks first or twice in a row,
        or as `tokenise`.
    """
    if template is None:
        raise ValueError(
            "is a conversation, which needs a chat template: there is none"
        )
    opening = template_lib.segment(template, (), [Message("user", "x")])[-1].text
    messages = attempt.messages[: len(attempt.messages) - len(closing(attempt))]
    so_far, heard = dialogue.start(), []
    for place, message in enumerate(messages):
        if message.role != POLICY:
            heard.append(message)
            continue
        if not heard:
            before = "nothing" if not place else "another of its own"
            raise ValueError(f"message {place + 1} is the policy's, after {before}")
        so_far, heard = dialogue.hear(template, so_far, heard), []
        ids = _said(template.tokenizer, template.lead + message.text, opening)
        if not attempt.truncated or place + 1 < len(messages):
            ids = np.append(ids, np.int32(template.end_id))
        so_far = dialogue.say(template, so_far, ids)
    return so_far


def _said(tokenizer: Tokenizer, text: str, before: str) -> np.ndarray:
    """Tokens of what the policy said, which may hold no special one."""
    prefix = _text_ids(tokenizer, before)
    (joint,) = tokenizer_lib.encode(tokenizer, [before + text])
    ids = joint[len(prefix) :]
    if not np.array_equal(joint[: len(prefix)], prefix):
        border = slice(max(len(prefix) - 4, 0), len(prefix) + 2)
        alone, both = (
            tokenizer_lib.show(tokenizer, row[border]) for row in (prefix, joint)
        )
        raise ValueError(
            f"the tokenizer joins the end of {before[-40:]!r} with {text[:40]!r} after "
            f"it: alone ...{alone}, joint ...{both}. End the prompt where a token does "
            "(a space at its end belongs to the response), or log prompt_ids and "
            "response_ids"
        )
    special = np.flatnonzero(np.isin(ids, steps.special_ids(tokenizer)))
    if special.size:
        raise ValueError(
            f"token {special[0]} of what the policy said is special, "
            f"{tokenizer_lib.show(tokenizer, ids[special[:1]])}: leave the end token "
            "out, which is added here, or log response_ids"
        )
    return ids


@functools.lru_cache(maxsize=1024)
def _text_ids(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Tokens of a text; attempts at one problem stand together, so they are kept."""
    (ids,) = tokenizer_lib.encode(tokenizer, [text])
    ids.flags.writeable = False
    return ids


def _resolved(path: str | pathlib.Path) -> pathlib.Path:
    return pathlib.Path(path).expanduser().resolve()


def _check(ids: np.ndarray, action: np.ndarray, size: int) -> None:
    if ids.max() >= size or ids.min() < 0:
        where = int(np.flatnonzero((ids >= size) | (ids < 0))[0])
        raise ValueError(
            f"id {where} is {ids[where]}, but the tokenizer has {size} tokens: is it "
            "the one of the policy that sampled?"
        )
    if not action.any() or action[0]:
        raise ValueError(
            "the policy needs a token to read and one to say: "
            f"{int((~action).sum())} and {int(action.sum())} tokens"
        )


def _marked(parts: Iterable[tuple[Sequence[int] | np.ndarray, bool]]):
    """Parts put together, and whose each token is."""
    rows = [(np.asarray(ids, np.int32), own) for ids, own in parts]
    ids = np.concatenate([row for row, _ in rows])
    return ids, np.concatenate([np.full(len(row), own) for row, own in rows])


def _spread(values: np.ndarray, action: np.ndarray, other: float) -> np.ndarray:
    """Values of the policy's tokens at their places, `other` at the rest."""
    out = np.full(len(action), other, values.dtype)
    out[action] = values
    return out
