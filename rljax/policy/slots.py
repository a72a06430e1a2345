"""Rows of text under way in a fixed number of slots: what is compiled of generation.

A slot holds one text at a time. `place` puts a prefilled prompt into it, `run` samples
until enough slots are done, `take` moves slots into a batch or cache of another size.
Shape letters: B slots, S columns of the cache, T most tokens sampled, V vocabulary.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from rljax.models import stepwise
from rljax.models.config import ModelConfig
from rljax.models.encdec_config import EncDecConfig
from rljax.policy import truncate
from rljax.types import Key

Config = ModelConfig | EncDecConfig


@flax.struct.dataclass
class Slots:
    """The state of all slots.

    Attributes:
      cache: keys and values of the tokens before `token`, and of what an encoder read.
      token: int32 [B], the last one, which the model has not read yet.
      position: int32 [B], of `token`.
      count: int32 [B], tokens sampled.
      limit: int32 [B], of `count`.
      active: bool [B], has not ended.
      keys: [B]; token number n is drawn with fold_in(key, n).
      ids: int32 [B, T], tokens sampled.
      log_probs: float32 [B, T], of `ids`, under the policy as it is.
    """

    cache: Any  # of `models.cache` or `models.cache_encdec`
    token: jax.Array
    position: jax.Array
    count: jax.Array
    limit: jax.Array
    active: jax.Array
    keys: Key
    ids: jax.Array
    log_probs: jax.Array


def start(
    keys: Key, columns: int, longest: int, config: Config, prompt: int = 0
) -> Slots:
    """Slots that are all free.

    Args:
      keys: [B], of any value.
      columns: S.
      longest: T.
      config: the model's settings.
      prompt: most tokens that an encoder reads; a decoder has them in its columns.
    """
    rows = len(keys)
    zero = jnp.zeros(rows, jnp.int32)
    return Slots(
        cache=stepwise.of(config).empty(rows, columns, prompt),
        token=zero,
        position=zero,
        count=zero,
        limit=zero,
        active=jnp.zeros(rows, bool),
        keys=keys,
        ids=jnp.zeros((rows, longest), jnp.int32),
        log_probs=jnp.zeros((rows, longest), jnp.float32),
    )


def place(
    slots: Slots,
    prompts: Any,
    source: jax.Array,
    target: jax.Array,
    count: jax.Array,
    token: jax.Array,
    position: jax.Array,
    limit: jax.Array,
    keys: Key,
) -> Slots:
    """Begins a text in each of some slots.

    Args:
      slots: the state.
      prompts: a cache of some, prefilled; no more columns than the slots have.
      source: int32 [B], row of `prompts`.
      target: int32 [B], slot it goes to; B past the first `count`.
      count: int32 [], how many there are.
      token: int32 [B], each prompt's last, or what every text begins with.
      position: int32 [B], of it.
      limit: int32 [B], tokens to sample at most, at least 1.
      keys: [B].
    """

    def copy_row(i, whole):
        def copy(into, row_of):
            row = jax.lax.dynamic_slice_in_dim(row_of, source[i], 1)
            return jax.lax.dynamic_update_slice(into, row, (target[i], 0, 0, 0))

        return jax.tree.map(copy, whole, prompts)

    def put(old, new):
        return old.at[target].set(new, mode="drop")

    return dataclasses.replace(
        slots,
        cache=jax.lax.fori_loop(0, count, copy_row, slots.cache),
        token=put(slots.token, token),
        position=put(slots.position, position),
        count=put(slots.count, jnp.zeros_like(token)),
        limit=put(slots.limit, limit),
        active=put(slots.active, jnp.ones_like(target, bool)),
        keys=put(slots.keys, keys),
    )


def take(slots: Slots, rows: jax.Array, columns: int, config: Config) -> Slots:
    """Some slots, in the order given, with a cache of another size.

    Args:
      slots: the state.
      rows: int32 [B'], which; -1 for one that `run` is not to let stay.
      columns: S', more than the highest position among them.
      config: the model's settings.
    """
    moved = jax.tree.map(lambda x: x[rows], slots)
    cache = stepwise.of(config).resize(moved.cache, columns)
    return dataclasses.replace(moved, cache=cache)


def run(
    weights: Any,
    slots: Slots,
    stay: jax.Array,
    temperature: jax.Array,
    leave_at: jax.Array,
    turns: jax.Array,
    stop_ids: tuple[int, ...],
    truncation: truncate.Truncation,
    config: Config,
) -> Slots:
    """Samples until few slots are active, `turns` are over or a cache row is full.

    Args:
      weights: of `Stepwise.arrange`.
      slots: the state.
      stay: bool [B]; a slot that is not to stay ends first.
      temperature: float32 [], 0 takes the likeliest token.
      leave_at: int32 [], stop when no more than this many are active.
      turns: int32 [], tokens of each slot at most.
      stop_ids: tokens that end a text; they belong to it.
      truncation: what may be drawn.
      config: the model's settings.
    """
    model, columns = stepwise.of(config), slots.cache.values[0].shape[2]

    def goes_on(carry):
        turn, slots = carry
        room = jnp.all(~slots.active | (slots.position < columns))
        return (turn < turns) & (jnp.sum(slots.active) > leave_at) & room

    def body(carry):
        turn, slots = carry
        hidden, cache = model.step(weights, slots.cache, slots.token, slots.position)
        logits = model.logits(weights, hidden).astype(jnp.float32)
        token = choose(logits, slots.keys, slots.count, temperature, truncation)
        slots = dataclasses.replace(slots, cache=cache)
        return turn + 1, note(slots, token, logits, stop_ids)

    slots = dataclasses.replace(slots, active=slots.active & stay)
    return jax.lax.while_loop(goes_on, body, (jnp.int32(0), slots))[1]


def choose(
    logits: jax.Array,
    keys: Key,
    count: jax.Array,
    temperature: jax.Array,
    truncation: truncate.Truncation,
) -> jax.Array:
    """One token a row, by inverse CDF with a uniform of (row's key, token's number).

    Args:
      logits: float32 [B, V].
      keys: [B].
      count: int32 [B], tokens sampled so far.
      temperature: float32 [], 0 takes the first of the likeliest.
      truncation: what may be drawn.

    Returns:
      int32 [B].
    """

    def sample():
        uniform = jax.vmap(lambda k, n: jax.random.uniform(jax.random.fold_in(k, n)))
        w = truncate.weights(logits, temperature, truncation)
        return truncate.draw(w, uniform(keys, count))

    def likeliest():
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return jax.lax.cond(temperature > 0, sample, likeliest)


def note(
    slots: Slots, token: jax.Array, logits: jax.Array, stop_ids: tuple[int, ...]
) -> Slots:
    """Writes down what was sampled, and ends what it ends.

    Args:
      slots: the state, with the cache of the model's last turn.
      token: int32 [B]; where a slot is not active it is dropped.
      logits: float32 [B, V] that it was drawn from.
      stop_ids: tokens that end a text.
    """
    rows, longest = jnp.arange(len(token)), slots.ids.shape[1]
    picked = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    log_prob = picked - jax.nn.logsumexp(logits, axis=-1)
    on = slots.active
    at = jnp.where(on, slots.count, longest)
    count = slots.count + on
    ends = jnp.isin(token, jnp.array(stop_ids, jnp.int32)) | (count >= slots.limit)
    return dataclasses.replace(
        slots,
        token=jnp.where(on, token, slots.token),
        position=slots.position + on,
        count=count,
        active=on & ~ends,
        ids=slots.ids.at[rows, at].set(token, mode="drop"),
        log_probs=slots.log_probs.at[rows, at].set(log_prob, mode="drop"),
    )
