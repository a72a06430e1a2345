"""n-step items by hand, against a plain loop, and without copies."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.replay import transitions
from rljax.types import TimeStep

EXAMPLE = {"id": jnp.int32(0), "pair": jnp.zeros(2, jnp.int16)}


def observation(ids) -> dict[str, jax.Array]:
    ids = jnp.asarray(ids)
    return {
        "id": ids.astype(jnp.int32),
        "pair": jnp.stack([ids, -ids], -1).astype("i2"),
    }


def time_step(obs, reached, reward, terminated, truncated, achieved) -> TimeStep:
    return TimeStep(
        obs=observation(obs),
        reached=observation(reached),
        reward=jnp.asarray(reward, jnp.float32),
        terminated=jnp.asarray(terminated, bool),
        truncated=jnp.asarray(truncated, bool),
        achieved=jnp.asarray(achieved, bool),
    )


@functools.partial(jax.jit, static_argnums=(4, 5))
def one_step(episodes, obs, action, step, num_steps, gamma):
    episodes = transitions.write(episodes, obs, action, step)
    items, mask = transitions.emit(episodes, step, num_steps, gamma)
    return transitions.clear(episodes, step.terminated | step.truncated), items, mask


def rows(items, mask) -> list[tuple]:
    """Items as (id left, action, reward, discount, id reached)."""
    keep = np.asarray(mask)
    for obs in (items.obs, items.reached):
        np.testing.assert_array_equal(obs["pair"][:, 0], obs["id"])  # kept whole
    columns = [items.obs["id"], items.action, items.reward, items.discount]
    columns = [np.asarray(c)[keep].tolist() for c in [*columns, items.reached["id"]]]
    return list(zip(*columns, strict=True))


def test_two_episodes_back_to_back_by_hand():
    """n = 3, limit 4, gamma 1/2. Observations are numbered as they come.

    Episode one, cut off at the limit: 10 -> 11 -> 12 -> 13 -> 14, rewards 0 1 0 2.
    Episode two, success on its second step: 20 -> 21 -> 22, rewards 0 4.
    """
    steps = [  # left, action, next obs, reached, reward, terminated, truncated
        (10, 0, 11, 11, 0, False, False),
        (11, 1, 12, 12, 1, False, False),
        (12, 2, 13, 13, 0, False, False),
        (13, 3, 20, 14, 2, False, True),
        (20, 4, 21, 21, 0, False, False),
        (21, 5, 30, 22, 4, True, False),
        (30, 6, 31, 31, 0, False, False),
    ]
    expected = [
        [],
        [],
        [(10, 0, 0.5, 0.125, 13)],  # 0 + 1/2 * 1 + 1/4 * 0
        [
            (11, 1, 1.5, 0.125, 14),  # 1 + 1/2 * 0 + 1/4 * 2
            (12, 2, 1.0, 0.25, 14),  # 0 + 1/2 * 2
            (13, 3, 2.0, 0.5, 14),
        ],
        [],
        [(20, 4, 2.0, 0.0, 22), (21, 5, 4.0, 0.0, 22)],  # 0 + 1/2 * 4
        [],
    ]
    episodes = transitions.init(EXAMPLE, num_envs=1, limit=4, num_goals=2)
    for (left, action, obs, reached, reward, end, cut), items in zip(
        steps, expected, strict=True
    ):
        step = time_step([obs], [reached], [reward], [end], [cut], [[False, True]])
        episodes, *emitted = one_step(
            episodes, observation([left]), jnp.array([action]), step, 3, 0.5
        )
        assert rows(*emitted) == items


class Stream:
    """Episodes of random length, in E environments, with a loop for what they give."""

    def __init__(self, seed: int, num_envs: int, limit: int, num_goals: int):
        self.rng = np.random.default_rng(seed)
        self.num_envs, self.limit, self.num_goals = num_envs, limit, num_goals
        self.next_id = 0
        self.past = [[] for _ in range(num_envs)]  # (id, action, reward, achieved)
        self.obs = [self.new_id() for _ in range(num_envs)]

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    def step(self):
        """Returns (obs left, action, TimeStep)."""
        rng, left = self.rng, list(self.obs)
        action = rng.integers(0, 9, self.num_envs)
        reward = rng.normal(size=self.num_envs).astype(np.float32)
        held = rng.random((self.num_envs, self.num_goals)) < 0.3
        terminated = rng.random(self.num_envs) < 0.2
        reached = [self.new_id() for _ in range(self.num_envs)]
        for e in range(self.num_envs):
            self.past[e].append((left[e], action[e], reward[e], held[e]))
        full = np.array([len(p) == self.limit for p in self.past])
        truncated = full & ~terminated
        self.ended = terminated | truncated
        new = [
            self.new_id() if end else r
            for r, end in zip(reached, self.ended, strict=True)
        ]
        self.obs, self.reached, self.terminated = new, reached, terminated
        step = time_step(new, reached, reward, terminated, truncated, held)
        return observation(left), jnp.asarray(action, jnp.int32), step

    def items(self, num_steps: int, gamma: float) -> list[tuple]:
        """What the step just taken completes, written as plainly as can be."""
        out = []
        for e, past in enumerate(self.past):
            spans = range(num_steps, 0, -1) if self.ended[e] else [num_steps]
            for m in spans:
                if m > len(past):
                    continue
                total = sum(gamma**i * float(past[i - m][2]) for i in range(m))
                discount = 0.0 if self.terminated[e] else gamma**m
                first = past[-m]
                out.append((first[0], first[1], total, discount, self.reached[e]))
        return out

    def forget(self):
        for e in np.flatnonzero(self.ended):
            self.past[e] = []


@pytest.mark.parametrize("num_steps, limit", [(1, 1), (1, 5), (3, 5), (5, 5)])
def test_is_the_plain_loop(num_steps, limit):
    stream = Stream(num_steps, num_envs=4, limit=limit, num_goals=3)
    episodes = transitions.init(EXAMPLE, 4, limit, 3)
    count = 0
    for _ in range(30):
        obs, action, step = stream.step()
        episodes, *emitted = one_step(episodes, obs, action, step, num_steps, 0.9)
        ours, theirs = rows(*emitted), stream.items(num_steps, 0.9)
        assert len(ours) == len(theirs)
        if ours:
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        count += len(ours)
        stream.forget()
    assert count > 30


def test_gathers_whole_episodes():
    stream = Stream(7, num_envs=4, limit=5, num_goals=3)
    episodes = transitions.init(EXAMPLE, 4, 5, 3)
    seen = set()
    for _ in range(20):
        obs, action, step = stream.step()
        episodes = transitions.write(episodes, obs, action, step)
        index = jnp.array([2, 0, 3])
        got = jax.jit(transitions.gather_episodes)(episodes, index)
        for i, e in enumerate(index.tolist()):
            past, length = stream.past[e], int(got.length[i])
            assert length == len(past)
            ids = [p[0] for p in past] + [stream.reached[e]]
            assert got.obs["id"][i, : length + 1].tolist() == ids
            assert got.action[i, :length].tolist() == [p[1] for p in past]
            np.testing.assert_array_equal(got.reward[i, :length], [p[2] for p in past])
            held = np.stack([p[3] for p in past])
            np.testing.assert_array_equal(got.achieved[i, :length], held)
            seen.add(length)
        episodes = transitions.clear(episodes, jnp.asarray(stream.ended))
        stream.forget()
    assert seen == {1, 2, 3, 4, 5}


def test_writes_in_place():
    """A scan over steps keeps the buffers where they are and copies none of them."""
    num_envs, limit, num_goals = 16, 31, 200
    episodes = transitions.init(EXAMPLE, num_envs, limit, num_goals)
    ids = jnp.arange(num_envs)
    never = jnp.zeros(num_envs, bool)

    def loop(episodes):
        def body(episodes, i):
            held = jnp.broadcast_to((i % 3 == 0)[None, None], (num_envs, num_goals))
            step = time_step(ids + i, ids, ids, never, (ids + i) % 31 == 0, held)
            episodes = transitions.write(episodes, observation(ids), ids, step)
            items, mask = transitions.emit(episodes, step, 3, 0.9)
            left = jnp.sum(items.obs["id"] * mask)
            return transitions.clear(episodes, step.truncated), left

        return jax.lax.scan(body, episodes, jnp.arange(40))

    compiled = jax.jit(loop, donate_argnums=0).lower(episodes).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.alias_size_in_bytes >= episodes.achieved.nbytes
    # Less than the smallest of the [E, W] buffers and the items together.
    assert memory.temp_size_in_bytes < 8_000 < episodes.achieved.nbytes
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(episodes)]
    episodes, _ = compiled(episodes)
    # The clock and the lengths are small enough to move.
    after = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(episodes)]
    assert pointers[:-2] == after[:-2]


def test_deals_environments_to_other_devices():
    stream = Stream(3, num_envs=4, limit=5, num_goals=3)
    episodes = transitions.init(EXAMPLE, 4, 5, 3)
    for _ in range(7):
        episodes = transitions.write(episodes, *stream.step())
        episodes = transitions.clear(episodes, jnp.asarray(stream.ended))
    one = jax.tree.map(lambda x: np.asarray(x)[None], episodes)
    two = transitions.regroup(one, 2)
    np.testing.assert_array_equal(two.action[1], episodes.action[2:])
    assert two.slot.tolist() == [7 % 6, 7 % 6]
    chex.assert_trees_all_equal(transitions.regroup(two, 1), one)
    with pytest.raises(ValueError, match="4 environments cannot be dealt evenly to 3"):
        transitions.regroup(two, 3)


def test_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        transitions.init(EXAMPLE, 2, 0, 3)
    stream = Stream(0, 2, 4, 3)
    episodes = transitions.init(EXAMPLE, 2, 4, 3)
    obs, action, step = stream.step()
    with pytest.raises(ValueError, match="between 1 and the episode limit 4, got 5"):
        one_step(episodes, obs, action, step, 5, 0.9)
