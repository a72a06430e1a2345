"""What each part of generation gives: the same work without it, in turns.

`python -m benchmarks.decode --parts`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from rljax.models import cache, decoder
from rljax.models.config import ModelConfig
from rljax.models.layers import Turned
from rljax.policy import decode, slots, truncate
from rljax.policy.desk import Settings
from rljax.types import Params

SMALLER = ModelConfig(  # 5.2 M parameters
    vocab_size=1024,
    width=256,
    num_layers=6,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    mlp_width=768,
)
LARGER = ModelConfig(  # 19 M
    vocab_size=4096,
    width=512,
    num_layers=5,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    mlp_width=1280,
)
ROWS, BEHIND, TURNS = 32, 64, 32
QUEUE = Settings(slots=32, prompts=(64,), longest=512)
NUCLEUS = truncate.Truncation(top_p=0.9)

Choose = Callable[[jax.Array, slots.Slots], jax.Array]  # logits, state -> tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneSize(Settings):
    """One size of the cache, and all slots to the end."""

    @property
    def columns(self) -> tuple[int, ...]:
        """The largest."""
        return super().columns[-1:]

    @property
    def batches(self) -> tuple[int, ...]:
        """All."""
        return (self.slots,)


def initial(config: ModelConfig) -> Params:
    """Random weights."""
    ids, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)
    init = jax.jit(decoder.Decoder(config).init)
    return init(jax.random.key(0), ids, ids, mask)["params"]


def sampled(truncation: truncate.Truncation) -> Choose:
    """By inverse CDF, as generation does."""

    def choose(logits, state):
        one = jnp.float32(1.0)
        return slots.choose(logits, state.keys, state.count, one, truncation)

    return choose


def categorical(logits: jax.Array, state: slots.Slots) -> jax.Array:
    """By the largest of logits with Gumbel noise, a number for each token there is."""
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.count)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def by_sort(logits: jax.Array, state: slots.Slots) -> jax.Array:
    """Top-p with the vocabulary sorted."""
    p = jax.nn.softmax(logits)
    order = jnp.argsort(-p, axis=-1)
    falling = jnp.take_along_axis(p, order, axis=-1)
    before = jnp.cumsum(falling, axis=-1) - falling
    least = jnp.min(jnp.where(before < 0.9, falling, 2.0), axis=-1, keepdims=True)
    uniform = jax.vmap(lambda k, n: jax.random.uniform(jax.random.fold_in(k, n)))
    kept = jnp.where(p >= least, p, 0.0)
    return truncate.draw(kept, uniform(state.keys, state.count))


def sliced(params: Params, config: ModelConfig) -> cache.Weights:
    """Layers taken from the stack wherever they are used."""
    layers = decoder.layers_of(params)
    once = {n: w for n, w in params.items() if n not in layers}
    rows = range(config.num_layers)
    return cache.Weights(
        once, tuple({n: w[i] for n, w in layers.items()} for i in rows)
    )


def straight(weights: cache.Weights) -> cache.Weights:
    """Matrices as the learner has them."""
    return jax.tree.map(
        lambda w: w.rows.T if isinstance(w, Turned) else w,
        weights,
        is_leaf=lambda w: isinstance(w, Turned),
    )


def loop(
    config: ModelConfig, weights: Any, lay_out: Callable[[Any], Any], choose: Choose
) -> Callable[[], Any]:
    """A call of some turns of all slots; `lay_out` is inside the loop."""

    def run(weights, state):
        def body(_, state):
            found = lay_out(weights)
            hidden, kept = cache.step(
                found, state.cache, state.token, state.position, config
            )
            logits = cache.logits(found, hidden, config)
            state = dataclasses.replace(state, cache=kept)
            return slots.note(state, choose(logits, state), logits, ())

        return jax.lax.fori_loop(0, TURNS, body, state)

    keys = jax.random.split(jax.random.key(0), ROWS)
    state = slots.start(keys, BEHIND + TURNS, TURNS, config)
    state = dataclasses.replace(
        state,
        position=jnp.full(ROWS, BEHIND),
        limit=jnp.full(ROWS, TURNS),
        active=jnp.ones(ROWS, bool),
    )
    return functools.partial(jax.jit(run), weights, state)


def turn_rows(config: ModelConfig, rounds: int) -> list[common.Row]:
    """What the parts of a turn give."""
    params = initial(config)
    arranged = jax.jit(functools.partial(cache.arrange, config=config))(params)
    plain = jax.jit(straight)(arranged)
    plain_draw = sampled(truncate.Truncation())
    make = functools.partial(loop, config)
    times = common.interleave(
        {
            "ours": make(arranged, lambda w: w, plain_draw),
            "straight": make(plain, lambda w: w, plain_draw),
            "sliced": make(params, lambda p: sliced(p, config), plain_draw),
            "categorical": make(arranged, lambda w: w, categorical),
            "top_p": make(arranged, lambda w: w, sampled(NUCLEUS)),
            "sort": make(arranged, lambda w: w, by_sort),
        },
        rounds,
    )
    return [
        common.speedup("matrices_turned", times, "ours", "straight", None),
        common.speedup("layers_apart", times, "straight", "sliced", None),
        common.speedup("inverse_cdf", times, "ours", "categorical", None),
        common.speedup("top_p_without_sort", times, "top_p", "sort", None),
        common.growth("top_p_costs", times, "top_p", "ours", None),
    ]


def queue_rows(limits: list[int], rounds: int) -> list[common.Row]:
    """What refilling and sizes give on the queue."""
    params = initial(SMALLER)
    rng = np.random.default_rng(1)
    texts = rng.integers(0, SMALLER.vocab_size, (len(limits), 64)).tolist()
    keys = jax.random.split(jax.random.key(0), len(limits))

    def serve(settings):
        made = decode.make(SMALLER, settings)
        return functools.partial(made.generate, params, texts, keys, limits=limits)

    sizes = {"prompts": QUEUE.prompts, "longest": QUEUE.longest}
    times = common.interleave(
        {
            "ours": serve(QUEUE),
            "free_1": serve(dataclasses.replace(QUEUE, free=1)),
            "free_8": serve(dataclasses.replace(QUEUE, free=8)),
            "in_batches": serve(dataclasses.replace(QUEUE, free=QUEUE.slots)),
            "one_size": serve(OneSize(slots=QUEUE.slots, **sizes)),
        },
        rounds,
        max_seconds=240,
    )
    return [
        common.speedup("refill", times, "ours", "in_batches", None),
        common.speedup("right_sizes", times, "ours", "one_size", None),
        common.speedup("free_4_over_1", times, "ours", "free_1", None),
        common.speedup("free_4_over_8", times, "ours", "free_8", None),
    ]
