"""A ring replay buffer that lives on the device.

Pure functions over one state. Donate the ring (`jax.jit(add, donate_argnums=0)`)
or carry it through a scan, or every call copies the whole of it; within a step add
first and sample then, since a read before the write may cost a copy too. Under
`pmap` each device owns a ring of its own: give each a different key to sample with;
`gather_rings` and `split_rings` deal the items out again to another number of
devices. Shapes: N slots, B items in a call, R rings.
"""

import dataclasses

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rljax.types import Key, PyTree


@flax.struct.dataclass
class RingState:
    """Contents and write position.

    Attributes:
      data: pytree, each leaf [N, ...] with the dtype of the item it stores.
      head: int32 [], slot the next item goes to.
      size: int32 [], slots holding an item, at most N.
    """

    data: PyTree
    head: jax.Array
    size: jax.Array

    @property
    def capacity(self) -> int:
        return jax.tree.leaves(self.data)[0].shape[0]


def init(item: PyTree, capacity: int) -> RingState:
    """An empty ring for items shaped like `item` (one item, no batch axis).

    Raises:
      ValueError: if the capacity is below 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1, got {capacity}")
    data = jax.tree.map(lambda x: jnp.zeros((capacity, *jnp.shape(x)), x.dtype), item)
    return RingState(data=data, head=jnp.int32(0), size=jnp.int32(0))


def add(state: RingState, items: PyTree) -> RingState:
    """Writes a batch, over the oldest items once the ring is full.

    Args:
      state: the ring.
      items: pytree like the one given to `init`, each leaf [B, ...], B <= N.

    Returns:
      The ring with the batch in it; item i of the batch is older than i + 1.

    Raises:
      ValueError: if B > N, or the items differ from the ring's in structure,
        shape or dtype.
    """
    batch_size = _check_items(state, items)
    if batch_size > state.capacity:
        raise ValueError(
            f"a batch of {batch_size} items does not fit a ring of {state.capacity}"
        )
    slots = (state.head + jnp.arange(batch_size)) % state.capacity
    return _put(state, items, slots, batch_size)


def add_masked(state: RingState, items: PyTree, mask: jax.Array) -> RingState:
    """Writes the items of a batch that the mask keeps, in their order.

    The same ring as if the kept items had been added one by one: the others take
    no slot. Of more than N kept items the last N stay.

    Args:
      state: the ring.
      items: pytree like the one given to `init`, each leaf [B, ...], any B.
      mask: bool [B], items to keep.

    Returns:
      The ring with the kept items in it.

    Raises:
      ValueError: if the items differ from the ring's in structure, shape or dtype.
    """
    batch_size = _check_items(state, items)
    chex.assert_shape(mask, (batch_size,))
    chex.assert_type(mask, bool)
    rank = jnp.cumsum(mask) - 1  # place among the kept items
    count = rank[-1] + 1
    written = mask & (rank >= count - state.capacity)
    # Past the end of the ring, and there unique too, so that the scatter drops them.
    nowhere = state.capacity + jnp.arange(batch_size)
    slots = jnp.where(written, (state.head + rank) % state.capacity, nowhere)
    return _put(state, items, slots, count)


def _check_items(state: RingState, items: PyTree) -> int:
    """The batch size of items that belong in the ring."""
    slot = jax.tree.map(lambda x: x[0], state.data)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jax.tree.map(lambda x: x[0], items), slot, exception_type=ValueError
    )
    return jax.tree.leaves(items)[0].shape[0]


def _put(
    state: RingState, items: PyTree, slots: jax.Array, count: jax.typing.ArrayLike
) -> RingState:
    """Writes items to distinct slots, dropping those past the end of the ring."""

    def scatter(stored, new):
        return stored.at[slots].set(new, mode="drop", unique_indices=True)

    return dataclasses.replace(
        state,
        data=jax.tree.map(scatter, state.data, items),
        head=((state.head + count) % state.capacity).astype(jnp.int32),
        size=jnp.minimum(state.size + count, state.capacity).astype(jnp.int32),
    )


def can_sample(state: RingState, min_size: int) -> jax.Array:
    """Whether at least `min_size` items are stored, bool []."""
    return state.size >= min_size


def sample(state: RingState, key: Key, batch_size: int) -> PyTree:
    """Draws items uniformly, with replacement.

    Ask `can_sample` first. An empty ring cannot raise from compiled code, so
    it returns slot 0 as `init` made it: zeros.

    Args:
      state: the ring.
      key: consumed.
      batch_size: B, static.

    Returns:
      Pytree of items, each leaf [B, ...].
    """
    # Slots fill from 0 up, so [0, size) is valid before and after wrapping.
    slots = jax.random.randint(key, (batch_size,), 0, jnp.maximum(state.size, 1))
    # Without the promise every element read is compared with the bounds again.
    return jax.tree.map(lambda x: x.at[slots].get(mode="promise_in_bounds"), state.data)


def sample_two(
    original: RingState,
    relabelled: RingState,
    key: Key,
    batch_size: int,
    her_ratio: float,
) -> tuple[PyTree, jax.Array]:
    """Draws each slot of a batch from one of two rings, uniformly within it.

    A slot comes from the relabelled ring with probability `her_ratio`, from the
    other while that ring is empty. Ask `can_sample` of one of them first.

    Args:
      original: ring of what happened.
      relabelled: ring of the same items under other goals; any capacity.
      key: consumed.
      batch_size: B, static.
      her_ratio: in [0, 1], static.

    Returns:
      Pytree of items, each leaf [B, ...], and which of them were relabelled,
      bool [B].

    Raises:
      ValueError: if `her_ratio` is outside [0, 1].
    """
    if not 0 <= her_ratio <= 1:
        raise ValueError(f"her_ratio must be in [0, 1], got {her_ratio}")
    key_ring, key_original, key_relabelled = jax.random.split(key, 3)
    wanted = jax.random.bernoulli(key_ring, float(her_ratio), (batch_size,))
    from_relabelled = (wanted & (relabelled.size > 0)) | (original.size == 0)

    def choose(left, right):
        mask = from_relabelled.reshape(batch_size, *[1] * (left.ndim - 1))
        return jnp.where(mask, right, left)

    items = jax.tree.map(
        choose,
        sample(original, key_original, batch_size),
        sample(relabelled, key_relabelled, batch_size),
    )
    return items, from_relabelled


def gather_rings(rings: RingState) -> RingState:
    """One ring of R times the capacity out of R rings, on the host.

    Every item is kept and so is the order within each ring. Between rings, items
    of equal age go in order of the rings: the newest of each are the newest.

    Args:
      rings: numpy or device arrays, each leaf with a leading axis R.

    Returns:
      A ring with numpy data, its oldest item in slot 0.
    """
    heads, sizes = np.asarray(rings.head), np.asarray(rings.size)
    count, capacity = jax.tree.leaves(rings.data)[0].shape[:2]
    age, ring = np.meshgrid(np.arange(capacity), np.arange(count), indexing="ij")
    age, ring = age[::-1].ravel(), ring.ravel()  # oldest first
    stored = age < sizes[ring]
    age, ring = age[stored], ring[stored]
    slot = (heads[ring] - 1 - age) % capacity
    total = count * capacity

    def gather(leaf):
        leaf = np.asarray(leaf)
        out = np.zeros((total, *leaf.shape[2:]), leaf.dtype)
        out[: len(slot)] = leaf[ring, slot]
        return out

    return RingState(
        data=jax.tree.map(gather, rings.data),
        head=jnp.int32(len(slot) % total),
        size=jnp.int32(len(slot)),
    )


def split_rings(ring: RingState, count: int) -> RingState:
    """Deals the items of one ring to R rings of N / R slots, on the host.

    The inverse of `gather_rings` up to where in its ring an item lies. Items are
    dealt in turn, so that every ring holds old and new ones alike, the newest last.

    Args:
      ring: one ring, such as `gather_rings` makes.
      count: R.

    Returns:
      Rings with numpy data, each leaf with a leading axis R; in each the oldest
      item is in slot 0.

    Raises:
      ValueError: if R does not divide N.
    """
    if count < 1 or ring.capacity % count:
        raise ValueError(
            f"a ring of {ring.capacity} slots cannot be split evenly into {count}"
        )
    size, capacity = int(ring.size), ring.capacity // count
    slots = (int(ring.head) - size + np.arange(size)) % ring.capacity
    # The newest item goes to the last ring, so the first rings may have one fewer.
    missing = -size % count
    place, ring_of = np.divmod(np.arange(missing, missing + size), count)
    place = place - (ring_of < missing)
    sizes = np.bincount(ring_of, minlength=count)

    def deal(leaf):
        leaf = np.asarray(leaf)
        out = np.zeros((count, capacity, *leaf.shape[1:]), leaf.dtype)
        out[ring_of, place] = leaf[slots]
        return out

    return RingState(
        data=jax.tree.map(deal, ring.data),
        head=jnp.asarray(sizes % capacity, jnp.int32),
        size=jnp.asarray(sizes, jnp.int32),
    )
