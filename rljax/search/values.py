"""V of prefixes on the device, a step at a time: no token is read twice.

    V(s) = head . hidden state of the last token of s

OREO learns V where the policy acts: of what stands before each of its tokens, and at
the level of steps before each of its steps. Nothing follows an end token, so V after
one was never learnt; what is read of a finished answer is V before its end token, or
where its last step began. Source: Wang et al., 2024 (arXiv:2412.16145), section 4.4.
Shape letters: N rows, S columns of the cache, C most tokens of a step, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rljax.models import cache as cache_lib
from rljax.models.config import ModelConfig
from rljax.search.steps import Sizes, Steps, Tokens, pad, pad_rows
from rljax.types import Params

# (state, which of its rows went on [N], how) -> (state of N rows, V float32 [N]).
Value = Callable[[Any, np.ndarray, Steps], tuple[Any, np.ndarray]]
# Steps -> int [N], how many tokens before a step's last V is read.
Reading = Callable[[Steps], np.ndarray]


@flax.struct.dataclass
class State:
    """Prefixes that V has read.

    Attributes:
      cache: of the critic's trunk.
      values: float32 [N, S], V after each token.
      length: int32 [N], tokens.
    """

    cache: cache_lib.Cache
    values: jax.Array
    length: jax.Array


class Critic(NamedTuple):
    """What `make` makes.

    Attributes:
      start: prompts (token ids) -> State with a row for each; they are read here.
      value: a `Value`.
      traces: names of the programs compiled so far.
    """

    start: Callable[[Sequence[Tokens]], State]
    value: Value
    traces: list[str]


def at_end(steps: Steps) -> np.ndarray:
    """V of the state after the step, as the paper defines it."""
    return steps.finished.astype(np.int32)


def where_steps_begin(steps: Steps) -> np.ndarray:
    """V of the last state that a step begins in, for V that was learnt nowhere else.

    Behind a delimiter that is the state after the step. An answer's last step ends in
    no such state, and V says of it what it said before it.
    """
    lengths = np.array([len(ids) for ids in steps.ids], np.int32)
    return np.where(steps.delimited, 0, lengths)


def one_early(steps: Steps) -> np.ndarray:
    """V as the reference code reads it: without the step's last token.

    Its text has neither delimiter nor end token, and of that V before the last token
    is taken. It is the same where each of them is a token.
    """
    return 1 + (steps.finished | steps.delimited).astype(np.int32)


def make(
    params: Params,
    head: Callable[[jax.Array], jax.Array],
    config: ModelConfig,
    sizes: Sizes,
    reading: Reading = at_end,
) -> Critic:
    """A critic that reads on where it stopped.

    Args:
      params: of its trunk.
      head: hidden states [..., D] -> values [...].
      config: the trunk's settings.
      sizes: lengths, as of the sampler.
      reading: where V of a step is read.

    Raises:
      ValueError: from `start` for a prompt that does not fit; from `value` where a
        step is read before the beginning of its text, or V is not a number there.
    """
    columns = -(-(sizes.prompt + sizes.longest) // 16) * 16
    traces: list[str] = []
    weights = jax.jit(lambda whole: cache_lib.arrange(whole, config))(params)

    def read(weights, state, ids, length):
        """`length` tokens more of each row."""
        hidden, cache = cache_lib.extend(
            weights, state.cache, ids, state.length, config
        )
        rows, places = jnp.arange(len(ids))[:, None], jnp.arange(ids.shape[1])
        own = places < length[:, None]
        at = jnp.where(own, state.length[:, None] + places, columns)
        found = head(hidden).astype(jnp.float32)
        values = state.values.at[rows, at].set(found, mode="drop")
        return State(cache, values, state.length + length)

    def opened(weights, ids, length):
        traces.append("open")
        empty = State(
            cache_lib.empty(len(ids), columns, config),
            jnp.zeros((len(ids), columns)),
            jnp.zeros(len(ids), jnp.int32),
        )
        return read(weights, empty, ids, length)

    def take(state, source):
        return jax.tree.map(lambda x: x[source], state)

    def follow(weights, state, ids, length, back):
        traces.append("read")
        state = read(weights, state, ids, length)
        at = state.length - 1 - back
        found = jnp.take_along_axis(state.values, at[:, None], axis=1)[:, 0]
        return state, found, at

    opened, take, follow = jax.jit(opened), jax.jit(take), jax.jit(follow)

    def start(prompts: Sequence[Tokens]) -> State:
        return opened(weights, *pad(prompts, sizes.prompt))

    def value(state: State, rows: np.ndarray, steps: Steps):
        count = len(rows)
        source, length, back = np.zeros((3, pad_rows(count)), np.int32)
        ids = np.zeros((len(source), _chunk(steps, sizes)), np.int32)
        source[:count], back[:count] = rows, reading(steps)
        for n, said in enumerate(steps.ids):
            ids[n, : len(said)], length[n] = said, len(said)
        moved = take(state, source)
        state, found, at = follow(weights, moved, ids, length, back)
        found, at = np.asarray(found)[:count], np.asarray(at)[:count]
        if (at < 0).any():
            raise ValueError(
                f"V of row {int(np.argmin(at))} is to be read {-int(at.min())} tokens "
                "before its text begins: read it at the end of steps"
            )
        if not np.isfinite(found).all():
            raise ValueError(
                f"V of row {int(np.argmin(np.isfinite(found)))} is not finite: the "
                "critic's weights or activations are not"
            )
        return state, found

    return Critic(start, value, traces)


def _chunk(steps: Steps, sizes: Sizes) -> int:
    """Tokens a step is padded to: 16, 32 and so on, at most the longest answer."""
    size, longest = 16, max(map(len, steps.ids))
    while size < longest:
        size *= 2
    return max(longest, min(size, sizes.longest))
