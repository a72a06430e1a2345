"""The ring against flashbax, and what relabelling costs.

`add_sample`: flashbax's item buffer, 100,000 items of 256 int32, adding 64 and
sampling 256 in each of 50 iterations of one compiled program, both donated.
`same_pointer`: 1 if the ring, and the episodes under way, lie where they lay before.
`relabel_*`: a loop that keeps episodes and adds their n-step items, with and without
telling each finished episode again; 32 environments, 40 steps an episode, 250 goals
of which 95 may come first (24,000 sequences), 4 goals an episode. `ours` and `peer`
are milliseconds per finished episode, all its steps included.

    python -m benchmarks.replay --json=FILE
"""

import functools
from collections.abc import Callable

import flashbax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from rljax.replay import hindsight, ring, strategies, transitions
from rljax.types import PyTree, TimeStep, Transition

CAPACITY, WIDTH, ADDED, SAMPLED, ITERATIONS = 100_000, 256, 64, 256, 50
ENVS, LIMIT, GOALS, FIRST = 32, 40, 250, 95
STRATEGIES = (
    strategies.achieved,
    strategies.final,
    strategies.future,
    strategies.episode,
    strategies.random,
)


class Carried:
    """A compiled step applied again and again to state it overwrites."""

    def __init__(self, step: Callable[[PyTree], PyTree], state: PyTree):
        self.step = jax.jit(step, donate_argnums=0)
        self.state = jax.tree.map(jnp.copy, state)

    def __call__(self) -> PyTree:
        self.state, out = self.step(self.state)
        return out

    def pointers(self) -> list[int]:
        """Where the arrays lie; those of a few numbers aside."""
        leaves = [x for x in jax.tree.leaves(self.state) if x.size > ENVS]
        return [x.unsafe_buffer_pointer() for x in leaves]


def tokens(i: jax.Array) -> dict[str, jax.Array]:
    rows = i + jnp.arange(ADDED, dtype=jnp.int32)
    return {"tokens": jnp.broadcast_to(rows[:, None], (ADDED, WIDTH))}


def over_iterations(add: Callable, sample: Callable) -> Callable:
    """Adds and samples in a scan; what is drawn is read in full."""

    def run(state):
        def body(state, i):
            state = add(state, tokens(i))
            drawn = sample(state, jax.random.fold_in(jax.random.key(0), i))
            return state, jnp.sum(drawn["tokens"], dtype=jnp.int32)

        return jax.lax.scan(body, state, jnp.arange(ITERATIONS))

    return run


def add_sample_rows(rounds: int) -> list[common.Row]:
    item = {"tokens": jnp.zeros(WIDTH, jnp.int32)}
    peer = flashbax.make_item_buffer(
        max_length=CAPACITY,
        min_length=SAMPLED,
        sample_batch_size=SAMPLED,
        add_batches=True,
    )
    ours = Carried(
        over_iterations(ring.add, functools.partial(ring.sample, batch_size=SAMPLED)),
        ring.init(item, CAPACITY),
    )
    theirs = Carried(
        over_iterations(
            peer.add, lambda state, key: peer.sample(state, key).experience
        ),
        peer.init(item),
    )
    before = ours.pointers()
    times = common.interleave({"ours": ours, "flashbax": theirs}, rounds)
    same = float(ours.pointers() == before)
    return [
        common.speedup("add_sample", times, "ours", "flashbax", target=1.0),
        common.Row("same_pointer_ring", same, 1.0, "", same, 1.0, "higher"),
    ]


def observation(num_envs: int) -> dict[str, jax.Array]:
    """As many small integers as Playground-Text shows of 8 objects."""
    return {
        "names": jnp.zeros((num_envs, 8), jnp.int16),
        "held": jnp.zeros((num_envs, 2), jnp.int8),
        "on": jnp.zeros((num_envs, 8), bool),
        "goal": jnp.zeros((num_envs, 2), jnp.int16),
    }


def goal_table() -> strategies.GoalTable:
    kind = (np.arange(GOALS) >= GOALS - FIRST).astype(int)
    allowed = np.broadcast_to(kind[:, None] == 1, (GOALS, GOALS))
    pair_kind = np.broadcast_to(2 + kind, (GOALS, GOALS))
    return strategies.goal_table(np.ones(GOALS, bool), allowed, kind, pair_kind)


def episode_loop(strategy: strategies.Strategy | None, table: strategies.GoalTable):
    """LIMIT steps, in which every environment ends one episode, at times of its own."""
    how = hindsight.Hindsight(
        table=table,
        with_goal=lambda obs, goal: {**obs, "goal": goal.astype(jnp.int16)},
        strategy=strategy or strategies.achieved,
        weighting=strategies.uniform_by_kind,
        her_k=4,
        num_steps=3,
        gamma=0.99,
    )
    rng = np.random.default_rng(0)
    # One step in five, about six goals begin to hold.
    event = rng.random((LIMIT, ENVS, 1)) < 0.2
    held = jnp.asarray(event & (rng.random((LIMIT, ENVS, GOALS)) < 6 / GOALS))
    obs, env = observation(ENVS), jnp.arange(ENVS)
    action, reward, never = env, jnp.zeros(ENVS), jnp.zeros(ENVS, bool)

    def run(state):
        def body(state, t):
            episodes, original, relabelled, counts = state
            ended = (env * LIMIT // ENVS + t) % LIMIT == 0
            step = TimeStep(obs, obs, reward, never, ended, held[t])
            episodes = transitions.write(episodes, obs, action, step)
            items, mask = transitions.emit(episodes, step, 3, 0.99)
            original = ring.add_masked(original, items, mask)
            if strategy is not None:
                key = jax.random.key(t)
                relabelled, counts = hindsight.relabel(
                    key, episodes, ended, obs["goal"], relabelled, counts, how
                )
            episodes = transitions.clear(episodes, ended)
            return (episodes, original, relabelled, counts), original.size

        return jax.lax.scan(body, state, jnp.arange(LIMIT))

    return run


def relabel_rows(rounds: int) -> list[common.Row]:
    table, example = goal_table(), jax.tree.map(lambda x: x[0], observation(1))
    item = Transition(
        example, jnp.int32(0), jnp.float32(0), jnp.float32(0), reached=example
    )
    state = (
        transitions.init(example, ENVS, LIMIT, GOALS),
        ring.init(item, CAPACITY),
        ring.init(item, CAPACITY),
        strategies.zero_counts(table),
    )
    loops = {
        strategy.__name__: Carried(episode_loop(strategy, table), state)
        for strategy in STRATEGIES
    }
    loops["without"] = Carried(episode_loop(None, table), state)
    before = loops["achieved"].pointers()
    times = common.interleave(loops, rounds)
    per_episode = {name: taken / ENVS for name, taken in times.items()}
    same = float(loops["achieved"].pointers() == before)
    return [
        common.Row("same_pointer_loop", same, 1.0, "", same, 1.0, "higher"),
        *[
            common.growth(f"relabel_{name}", per_episode, name, "without", target=None)
            for name in loops
            if name != "without"
        ],
    ]


def main() -> None:
    arguments = common.parse_arguments(__doc__ or "")
    rows = add_sample_rows(arguments.rounds) + relabel_rows(arguments.rounds)
    common.finish(rows, arguments.json)


if __name__ == "__main__":
    main()
