"""The rings against deques, and the promises their docstrings make."""

import collections
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.replay import ring


def items(start: int, count: int) -> dict[str, np.ndarray]:
    ids = np.arange(start, start + count, dtype=np.int32)
    return {"id": ids, "tokens": np.stack([ids, -ids], axis=-1)}


def empty_ring(capacity: int) -> ring.RingState:
    return ring.init({k: v[0] for k, v in items(0, 1).items()}, capacity)


def oldest_first(state: ring.RingState) -> list[int]:
    """Ids in the order in which the ring will overwrite them."""
    size = int(state.size)
    slots = (int(state.head) - size + np.arange(size)) % state.capacity
    tokens = np.asarray(state.data["tokens"])[slots]
    ids = np.asarray(state.data["id"])[slots]
    np.testing.assert_array_equal(tokens, np.stack([ids, -ids], -1))  # kept whole
    return ids.tolist()


@pytest.fixture
def empty() -> ring.RingState:
    return empty_ring(5)


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 5], [3, 4, 2, 5], [4, 3]])
def test_holds_the_newest_items(empty, sizes):
    state, model, next_id = empty, collections.deque(maxlen=5), 0
    add = jax.jit(ring.add)
    for size in sizes:
        state = add(state, items(next_id, size))
        model.extend(range(next_id, next_id + size))
        next_id += size
        assert oldest_first(state) == list(model)
        assert state.size == len(model)


@pytest.mark.parametrize("capacity", [1, 5, 8, 100])
def test_masked_add_is_adding_the_kept_items_one_by_one(capacity):
    rng = np.random.default_rng(capacity)
    state, model = empty_ring(capacity), collections.deque(maxlen=capacity)
    add = jax.jit(ring.add_masked)
    for start in range(0, 160, 8):  # batches larger than the ring as well
        mask = rng.random(8) < rng.choice([0.0, 0.3, 1.0])
        state = add(state, items(start, 8), mask)
        model.extend(start + np.flatnonzero(mask))
        assert oldest_first(state) == list(model)
        assert state.size == len(model)
        assert state.head == (state.size if len(model) < capacity else state.head)


def test_masked_add_takes_no_slot_for_the_others(empty):
    before = ring.add(empty, items(1, 3))
    after = ring.add_masked(before, items(10, 4), jnp.zeros(4, bool))
    chex.assert_trees_all_equal(after, before)


def test_samples_only_stored_items(empty):
    state = ring.add(empty, items(7, 3))
    batch = ring.sample(state, jax.random.key(0), 256)
    assert set(np.asarray(batch["id"]).tolist()) == {7, 8, 9}
    np.testing.assert_array_equal(batch["tokens"][:, 0], batch["id"])  # rows kept whole
    assert not ring.can_sample(state, 4) and ring.can_sample(state, 3)


def test_samples_uniformly(empty):
    state = ring.add(ring.add(empty, items(0, 5)), items(5, 3))
    ids = np.asarray(ring.sample(state, jax.random.key(1), 20_000)["id"])
    share = np.bincount(ids, minlength=8) / 20_000
    # Five items at 1/5 each: a standard error of 0.0028.
    np.testing.assert_allclose(share, [0, 0, 0, 0.2, 0.2, 0.2, 0.2, 0.2], atol=0.015)


@pytest.mark.parametrize(
    "her_ratio, low, high", [(0, 0, 0), (1, 1, 1), (0.3, 0.2, 0.4)]
)
def test_mixes_two_rings(her_ratio, low, high):
    original = ring.add(empty_ring(5), items(0, 3))
    relabelled = ring.add(empty_ring(9), items(100, 4))
    batch, mask = ring.sample_two(
        original, relabelled, jax.random.key(0), 512, her_ratio
    )
    np.testing.assert_array_equal(np.asarray(batch["id"]) >= 100, mask)
    np.testing.assert_array_equal(batch["tokens"][:, 0], batch["id"])
    assert low <= np.mean(mask) <= high


def test_an_empty_ring_of_two_gives_way(empty):
    full = ring.add(empty, items(1, 3))
    for her_ratio in (0.0, 0.5, 1.0):
        _, mask = ring.sample_two(full, empty, jax.random.key(0), 32, her_ratio)
        assert not np.any(mask)
        _, mask = ring.sample_two(empty, full, jax.random.key(0), 32, her_ratio)
        assert np.all(mask)


def test_rejects_a_ratio_that_is_none(empty):
    with pytest.raises(ValueError, match=r"her_ratio must be in \[0, 1\], got 1.5"):
        ring.sample_two(empty, empty, jax.random.key(0), 4, 1.5)


def test_add_compiles_once(empty):
    chex.clear_trace_counter()
    add = jax.jit(chex.assert_max_traces(ring.add, n=1))
    state = empty
    for i in range(3):
        state = add(state, items(i, 2))


@pytest.mark.parametrize("masked", [False, True])
def test_a_donated_ring_stays_where_it_is(masked):
    def add(state, start):
        batch = {"id": start + jnp.arange(8, dtype=jnp.int32)}
        batch["tokens"] = jnp.stack([batch["id"], -batch["id"]], -1)
        if masked:
            return ring.add_masked(state, batch, batch["id"] % 3 == 0)
        return ring.add(state, batch)

    def loop(state):
        def body(state, i):
            state = add(state, i)
            return state, ring.sample(state, jax.random.key(i), 4)["id"]

        return jax.lax.scan(body, state, jnp.arange(6))

    state = empty_ring(10_000)
    loop = jax.jit(loop, donate_argnums=0).lower(state).compile()
    memory = loop.memory_analysis()
    assert memory is not None
    assert memory.alias_size_in_bytes >= 10_000 * 12
    assert memory.temp_size_in_bytes < 10_000
    pointer = state.data["tokens"].unsafe_buffer_pointer()
    new, _ = loop(state)
    assert state.data["tokens"].is_deleted()
    assert new.data["tokens"].unsafe_buffer_pointer() == pointer


def test_one_ring_per_device(empty):
    n = jax.local_device_count()
    rings = jax.pmap(lambda _: empty)(jnp.arange(n))
    batch = jax.tree.map(lambda x: x.reshape(n, 2, *x.shape[1:]), items(0, 2 * n))
    rings = jax.pmap(ring.add, donate_argnums=0)(rings, batch)
    draw = jax.pmap(functools.partial(ring.sample, batch_size=8))
    ids = np.asarray(draw(rings, jax.random.split(jax.random.key(0), n))["id"])
    for device in range(n):
        assert set(ids[device].tolist()) <= {2 * device, 2 * device + 1}


def one_of(rings: ring.RingState, index: int) -> ring.RingState:
    return jax.tree.map(lambda x: x[index], rings)


@pytest.mark.parametrize("before, after", [(1, 4), (2, 1), (4, 2), (2, 2)])
@pytest.mark.parametrize("added", [(0, 0), (7, 5), (11, 10)])
def test_deals_items_to_another_number_of_rings(before, after, added):
    rings = []
    for device in range(before):
        state = empty_ring(8)
        for i in range(added[device % 2]):
            state = ring.add(state, items(100 * i + device, 1))  # id says when, where
        rings.append(state)
    stacked = jax.tree.map(lambda *x: np.stack(x), *rings)
    together = ring.gather_rings(stacked)
    assert together.capacity == 8 * before
    stored = oldest_first(together)
    assert sorted(stored) == sorted(sum([oldest_first(r) for r in rings], []))
    for device in range(before):
        own = [i for i in stored if i % 100 == device]
        assert own == oldest_first(rings[device])

    dealt = ring.split_rings(together, after)
    shares = [oldest_first(one_of(dealt, i)) for i in range(after)]
    assert one_of(dealt, 0).capacity == 8 * before // after
    assert sorted(sum(shares, [])) == sorted(stored)
    for share in shares:
        assert share == [i for i in stored if i in share]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # They go on as rings.
    state = ring.add(jax.tree.map(jnp.asarray, one_of(dealt, 0)), items(9000, 1))
    assert oldest_first(state)[-1] == 9000
    if before == after and added[0] == added[1]:
        assert shares == [oldest_first(r) for r in rings]


def test_items_gathered_from_full_rings_alternate_by_age():
    rings = [ring.add(empty_ring(2), items(10 * d, 2)) for d in range(2)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *rings)
    assert oldest_first(ring.gather_rings(stacked)) == [0, 10, 1, 11]


def test_rejects_an_uneven_split(empty):
    with pytest.raises(ValueError, match="a ring of 5 slots cannot be split .* into 2"):
        ring.split_rings(empty, 2)


@pytest.mark.parametrize(
    "batch, message",
    [
        (items(0, 6), "a batch of 6 items does not fit a ring of 5"),
        ({"id": items(0, 2)["id"]}, "struct"),
        ({**items(0, 2), "id": np.zeros(2, np.float32)}, "dtype"),
    ],
)
def test_rejects_other_items(empty, batch, message):
    with pytest.raises(ValueError, match=message):
        ring.add(empty, batch)


def test_rejects_no_room():
    with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
        empty_ring(0)
