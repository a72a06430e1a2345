"""Reasoning steps sampled on the device, from prefixes that stay in the cache.

A prompt is prefilled once. Whoever goes on from a prefix takes a copy of its keys and
values, so nothing is read twice, however many beams share it. A step is what is sampled
up to a token that ends one; without such tokens and strings it is the whole answer.
Shape letters: N rows, P tokens of a padded prompt.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models import cache as cache_lib
from rljax.models.config import ModelConfig
from rljax.policy import slots as slots_lib
from rljax.policy.truncate import Truncation
from rljax.types import Params

Text = Callable[[Sequence[int]], str]
Tokens = Sequence[int] | np.ndarray


class Steps(NamedTuple):
    """A step of each of N rows."""

    ids: list[np.ndarray]  # int32, what was said, the token that ended it included
    finished: np.ndarray  # bool [N], by an end token: it is the answer's last
    delimited: np.ndarray  # bool [N], by a delimiter
    cut: np.ndarray  # bool [N], not finished, and there is no room for more
    dropped: np.ndarray  # int32 [N], tokens sampled past its end and thrown away


# (state, which of its rows to go on from int32 [N], words of a key for each uint32
# [N, words]) -> (state of N rows, steps).
Sample = Callable[[Any, np.ndarray, np.ndarray], tuple[Any, Steps]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes that are compiled for."""

    prompt: int  # tokens of the longest prompt
    longest: int  # tokens of an answer, at most
    check: int = 16  # tokens between two looks for stop strings


class State(NamedTuple):
    """Prefixes, one a row. It is not changed by what goes on from it."""

    slots: slots_lib.Slots  # on the device; may have more rows, which are padding
    goes_on: np.ndarray  # bool [N], has neither finished nor run out of room


class Sampler(NamedTuple):
    """What `make` makes.

    Attributes:
      start: prompts (token ids) -> State with a row for each; they are read here.
      sample: a `Sample`.
      traces: names of the programs compiled so far.
    """

    start: Callable[[Sequence[Tokens]], State]
    sample: Sample
    traces: list[str]


def make(
    params: Params,
    config: ModelConfig,
    sizes: Sizes,
    *,
    end_ids: Sequence[int],
    step_ids: Sequence[int] = (),
    stop_strings: Sequence[str] = (),
    text: Text | None = None,
    temperature: float = 1.0,
) -> Sampler:
    """A sampler of steps.

    Args:
      params: the decoder's.
      config: its settings.
      sizes: lengths.
      end_ids: tokens that end an answer.
      step_ids: tokens that end a step, such as those with a newline in them.
      stop_strings: texts that end a step, with the first token at which its text holds
        one. The host looks for them, so give those alone that may be spread over
        tokens.
      text: token ids -> text, for `stop_strings`; see `decode.make`.
      temperature: of the distribution that is drawn from; 0 takes the likeliest.

    Raises:
      ValueError: if the model cannot hold the sizes, an id is no token, or strings
        have no `text`. `start` raises it for a prompt that does not fit, `sample` for
        a row that cannot go on.
    """
    _check(config, sizes, (*end_ids, *step_ids), stop_strings, text)
    columns = _round_up(sizes.prompt + sizes.longest - 1)  # the last is not read
    stops = tuple(sorted({*end_ids, *step_ids}))
    traces: list[str] = []
    weights = jax.jit(lambda whole: cache_lib.arrange(whole, config))(params)

    def opened(weights, ids, length):
        traces.append("open")
        prompts = cache_lib.prefill(weights, ids, config)
        return _open(prompts, ids, length, columns, sizes.longest, config)

    def run(weights, slots, turns):
        traces.append("run")
        return slots_lib.run(
            weights, slots, slots.active, jnp.float32(temperature), jnp.int32(0),
            turns, stops, Truncation(), config,
        )  # fmt: skip

    opened, run, follow = jax.jit(opened), jax.jit(run), jax.jit(_follow)
    turns = np.int32(sizes.check if stop_strings else columns)

    def start(prompts: Sequence[Tokens]) -> State:
        ids, length = pad(prompts, sizes.prompt)
        return State(opened(weights, ids, length), np.ones(len(prompts), bool))

    def sample(
        state: State, rows: np.ndarray, words: np.ndarray
    ) -> tuple[State, Steps]:
        rows = np.asarray(rows, np.int32)
        if not state.goes_on[rows].all():
            bad = int(rows[~state.goes_on[rows]][0])
            raise ValueError(f"row {bad} has ended; nothing goes on from it")
        slots = follow(state.slots, *_placed(rows, words))
        begin, dropped = np.array(slots.count), np.zeros(len(slots.count), np.int32)
        delimited = np.zeros(len(dropped), bool)
        while np.any(slots.active):
            looked = np.array(slots.count)
            slots = run(weights, slots, turns)
            if stop_strings and text is not None:
                ends = _ends(slots, begin, looked, len(rows), stop_strings, text)
                delimited |= ends >= 0
                slots, more = _rewind(slots, ends)
                dropped += more
        steps = _steps(slots, begin, len(rows), delimited, dropped, sizes.longest)
        last = np.array([ids[-1] for ids in steps.ids], np.int32)
        finished = np.isin(last, end_ids)
        steps = steps._replace(
            finished=finished,
            delimited=(steps.delimited | np.isin(last, step_ids)) & ~finished,
            cut=steps.cut & ~finished,
        )
        return State(slots, ~(steps.finished | steps.cut)), steps

    return Sampler(start, sample, traces)


def pad(prompts: Sequence[Tokens], longest: int) -> tuple[np.ndarray, ...]:
    """Texts in rows of one length, the number of rows as of `pad_rows`.

    Args:
      prompts: token ids of each, at least one.
      longest: P.

    Returns:
      int32 [N, P], and their lengths, int32 [N], 1 for padding.

    Raises:
      ValueError: if one is empty or longer.
    """
    rows = pad_rows(len(prompts))
    ids, length = np.zeros((rows, longest), np.int32), np.ones(rows, np.int32)
    for i, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= longest:
            raise ValueError(
                f"prompt {i} has {len(prompt)} tokens; it must have from 1 to "
                f"{longest}: allow longer ones"
            )
        ids[i, : len(prompt)], length[i] = prompt, len(prompt)
    return ids, length


def pad_rows(count: int) -> int:
    """Rows that so many are computed in: 8, 16, 32 and so on, for few programs."""
    return max(8, 1 << (count - 1).bit_length())


def _open(prompts, ids, length, columns, longest, config) -> slots_lib.Slots:
    """Slots that stand at the ends of prefilled prompts."""
    count = len(ids)
    keys = jax.random.split(jax.random.key(0), count)  # each sample brings its own
    places = jnp.arange(count)
    last = jnp.take_along_axis(ids, length[:, None] - 1, axis=1)[:, 0]
    return slots_lib.place(
        slots_lib.start(keys, columns, longest, config), prompts, places, places,
        jnp.int32(count), last, length - 1, jnp.full(count, longest), keys,
    )  # fmt: skip


def _placed(rows: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows and keys with padding, and which are none."""
    size = pad_rows(len(rows))
    if len(words) != len(rows):
        raise ValueError(f"{len(rows)} rows have {len(words)} keys; one each is needed")
    source, on = np.zeros(size, np.int32), np.arange(size) < len(rows)
    padded = np.zeros((size, words.shape[1]), np.uint32)
    source[: len(rows)], padded[: len(rows)] = rows, words
    return source, on, padded


def _follow(slots, source, on, words) -> slots_lib.Slots:
    """Copies of some rows, each with a key of its own."""
    moved = jax.tree.map(lambda x: x[source], slots)
    return dataclasses.replace(moved, active=on, keys=jax.random.wrap_key_data(words))


def _ends(slots, begin, looked, rows: int, strings, text: Text) -> np.ndarray:
    """Tokens of each answer up to the first delimiter of this step; -1 without one."""
    count, ids = np.asarray(slots.count), np.asarray(slots.ids)
    ends = np.full(len(count), -1)
    for n in range(rows):

        def holds(stop, n=n):
            found = text(ids[n, begin[n] : stop].tolist())
            return any(string in found for string in strings)

        if count[n] > looked[n] and holds(count[n]):
            after = range(looked[n] + 1, count[n] + 1)
            ends[n] = next(stop for stop in after if holds(stop))
    return ends


def _rewind(slots, ends: np.ndarray) -> tuple[slots_lib.Slots, np.ndarray]:
    """Ends rows where `ends` says, and how many tokens that throws away."""
    count, token, position, active, ids = (
        np.array(x)
        for x in (slots.count, slots.token, slots.position, slots.active, slots.ids)
    )
    found = ends >= 0
    dropped = np.where(found, count - ends, 0).astype(np.int32)
    token[found] = ids[found, ends[found] - 1]
    # Columns beyond a row's position are not seen, and are written anew.
    rewound = dataclasses.replace(
        slots,
        count=count - dropped,
        token=token,
        position=position - dropped,
        active=active & ~found,
    )
    return rewound, dropped


def _steps(slots, begin, rows: int, delimited, dropped, longest: int) -> Steps:
    """What was said since `begin`; whether it finished is not looked at."""
    count, ids = np.asarray(slots.count), np.asarray(slots.ids)
    return Steps(
        ids=[ids[n, begin[n] : count[n]].copy() for n in range(rows)],
        finished=np.zeros(rows, bool),
        delimited=delimited[:rows],
        cut=count[:rows] >= longest,
        dropped=dropped[:rows],
    )


def _round_up(size: int) -> int:
    return -(-size // 16) * 16


def _check(config: ModelConfig, sizes: Sizes, ids, strings, text) -> None:
    for name in ("prompt", "longest", "check"):
        if getattr(sizes, name) < 1:
            raise ValueError(f"{name} is {getattr(sizes, name)}; it must be >= 1")
    for token in ids:
        if not 0 <= token < config.vocab_size:
            raise ValueError(
                f"stop id {token} is not a token; there are {config.vocab_size}"
            )
    context, needed = config.max_positions, sizes.prompt + sizes.longest
    if context is not None and needed > context:
        raise ValueError(
            f"prompts of {sizes.prompt} tokens and answers of {sizes.longest} may come "
            f"to {needed}; the model's context is {context}: shorten one of them"
        )
    if strings and text is None:
        raise ValueError("stop strings need `text`, which turns token ids into text")
