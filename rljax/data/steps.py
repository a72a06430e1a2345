"""Where the steps of an answer end.

Step-level learning treats all tokens of a reasoning step as one action (OREO, section
4.2), and search samples a step at a time. A step ends with the token in which a
delimiter ends, as generation does with a stop string: where the tokenizer writes
". The" as "." and " The", the step that ". " ends has " The" in it.

Shapes: T tokens.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from rljax.text.tokenizer import Tokenizer

LINES = ("\n",)  # grade-school problems
SENTENCES = ("\n", ". ", ".$ ")  # competition problems, whose text has formulas

# (tokenizer, ids int32 [T], action bool [T]) -> int32 [T], step of each token
Split = Callable[[Tokenizer, np.ndarray, np.ndarray], np.ndarray]


def split(delimiters: Sequence[str] = LINES) -> Split:
    """A function that numbers the steps of an episode.

    Every turn of the policy begins a step. A step has something in it that is neither
    space nor special token: empty lines and the end token belong to the step before
    them, and those that a turn begins with to its first step.

    Args:
      delimiters: texts that end a step; none where each turn is one.

    Returns:
      (tokenizer, ids int32 [T], action bool [T]) -> int32 [T], numbers from 0 on,
      -1 where the token is not the policy's.

    Raises:
      ValueError: if a delimiter is empty.
    """
    if isinstance(delimiters, str) or not all(delimiters):
        raise ValueError(f"delimiters must be a list of texts, got {delimiters!r}")

    def number(tokenizer: Tokenizer, ids: np.ndarray, action: np.ndarray) -> np.ndarray:
        step, last = np.full(len(ids), -1, np.int32), -1
        for begin, stop in turns(action):
            text, reach = reaches(tokenizer, ids, begin, stop)
            cut = _segments(reach, _ends(text, delimiters))
            seen = _visible(tokenizer, ids[begin:stop], text, reach)
            inside = _joined(cut, seen)
            step[begin:stop] = last + 1 + inside
            last = int(step[stop - 1])
        return step

    return number


def at(lengths: Sequence[int]) -> Split:
    """A function that numbers steps whose lengths in characters are known.

    A step ends with the token in which its last character lies. One that ends inside
    the token of another is joined to it.

    Args:
      lengths: characters of each step of the one turn; the end token may follow.

    Returns:
      As of `split`; it raises ValueError unless the policy has one turn, or if its
      text is shorter than the steps.
    """
    ends = [int(end) for end in np.cumsum(lengths)]

    def number(tokenizer: Tokenizer, ids: np.ndarray, action: np.ndarray) -> np.ndarray:
        (begin, stop), *more = turns(action)
        text, reach = reaches(tokenizer, ids, begin, stop)
        if more or len(text) < ends[-1]:
            raise ValueError(
                f"steps of {ends[-1]} characters do not fit {1 + len(more)} turns "
                f"that begin with {text[:40]!r}, {len(text)} characters"
            )
        inside = _segments(reach, ends[:-1])
        step = np.full(len(ids), -1, np.int32)
        step[begin:stop] = np.unique(inside, return_inverse=True)[1]
        return step

    return number


@functools.lru_cache(maxsize=16)
def special_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Special tokens, those included that have no name such as `eos_token`.

    Args:
      tokenizer: any Hugging Face tokenizer; asked once.
    """
    added = tokenizer.added_tokens_decoder.items()
    return tuple({*tokenizer.all_special_ids, *(i for i, t in added if t.special)})


def turns(action: np.ndarray) -> list[tuple[int, int]]:
    """Where each run of the policy's tokens begins and stops.

    Args:
      action: bool [T].
    """
    edges = np.flatnonzero(np.diff(np.r_[False, action, False].astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def reaches(
    tokenizer: Tokenizer, ids: np.ndarray, begin: int, stop: int
) -> tuple[str, np.ndarray]:
    """The text of some tokens, and how far into it each of them reaches.

    Args:
      tokenizer: any Hugging Face tokenizer.
      ids: int [T].
      begin: first of the tokens; the one before it is looked at, since some
        tokenizers drop the space that a text begins with.
      stop: after the last of them.

    Returns:
      The text, and int64 [stop - begin], characters up to the end of each token. A
      token that ends inside a character reaches as far as the one before it.
    """
    turn = [int(i) for i in ids[max(begin - 1, 0) : stop]]
    first = min(begin, 1)
    text = _decode(tokenizer, turn).removeprefix(_decode(tokenizer, turn[:first]))
    pieces = [_piece(tokenizer, i) for i in turn[first:]]
    if "".join(pieces) != text:  # characters of several tokens, or a space dropped
        pieces = list(_growth(tokenizer, turn, first))
    return "".join(pieces), np.cumsum([len(piece) for piece in pieces], dtype=np.int64)


def _growth(tokenizer: Tokenizer, ids: Sequence[int], first: int) -> Iterator[str]:
    """What each token from `first` on adds to the text.

    Decoded a few tokens at a time, from the last place where characters were whole.
    """
    low, high = 0, first
    for place in range(first, len(ids)):
        before = _decode(tokenizer, ids[low:high])
        text = _decode(tokenizer, ids[low : place + 1])
        whole = not text.endswith("\ufffd") or place + 1 == len(ids)
        yield text[len(before) :] if whole else ""
        if whole:
            low, high = high, place + 1


@functools.lru_cache(maxsize=2**18)
def _piece(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token in the middle of others."""
    alone = _decode(tokenizer, [token])
    return _decode(tokenizer, [token, token]).removeprefix(alone)


def _decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def _ends(text: str, delimiters: Iterable[str]) -> list[int]:
    """Where a delimiter ends; what one has used up is not part of the next."""
    found = set()
    for delimiter in delimiters:
        place = text.find(delimiter)
        while place >= 0:
            found.add(place + len(delimiter))
            place = text.find(delimiter, place + len(delimiter))
    return sorted(found)


def _segments(reach: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """How many ends lie in tokens before each token."""
    last = np.searchsorted(reach, ends)  # the first token that reaches so far
    places = np.zeros(len(reach) + 1, np.int64)
    np.add.at(places, np.minimum(last + 1, len(reach)), 1)
    return np.cumsum(places)[:-1]


def _visible(
    tokenizer: Tokenizer, ids: np.ndarray, text: str, reach: np.ndarray
) -> np.ndarray:
    """Tokens that show something, bool."""
    begins = np.r_[0, reach[:-1]]
    shown = [bool(text[a:b].strip()) for a, b in zip(begins, reach, strict=True)]
    return np.array(shown, bool) & ~np.isin(ids, special_ids(tokenizer))


def _joined(segment: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Segments numbered without gaps; those without a visible token join another."""
    shows = np.unique(segment[visible])
    return np.maximum(np.searchsorted(shows, segment, side="right") - 1, 0)
