"""One device or many: the only file that names pmap, shard_map or a mesh.

A program is written once, for one device, with an `axis_name` to sum over:

    program(shared, local) -> (shared, local, metrics)

`shared` (parameters, optimiser) is the same on every device; `local` (environments,
rings, batches) is each device's own. On one device `local` has no extra axis; on D
devices of `pmap` every leaf of it leads with D.

Under `mesh` the same program, with no axis name, is the whole one: `local` is laid out
as on one device and its first axes are dealt out, and the compiler adds what sums are
needed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.types import PyTree

AXIS = "data"
Program = Callable[[PyTree, PyTree], tuple[PyTree, PyTree, PyTree]]


class Parallel(NamedTuple):
    """How programs are spread.

    Attributes:
      axis_name: what programs must sum over, None on one device.
      num_devices: D, by which the local state is laid out: 1 for `mesh`.
      sharers: devices that work on a batch, whose size should be a multiple of it.
      compile: makes a program run on all devices; both its arguments are donated.
      spread: (index of a device -> its local state) -> the local state of all.
    """

    axis_name: str | None
    num_devices: int
    sharers: int
    compile: Callable[[Program], Program]
    spread: Callable[[Callable[[int], PyTree]], PyTree]


def jit() -> Parallel:
    """One device."""

    def spread(make: Callable[[int], PyTree]) -> PyTree:
        return make(0)

    return Parallel(None, 1, 1, lambda f: jax.jit(f, donate_argnums=(0, 1)), spread)


def _stack(make: Callable[[int], PyTree], count: int) -> PyTree:
    shares = [make(index) for index in range(count)]
    return jax.tree.map(lambda *xs: jnp.stack(xs), *shares)


def layout_of(num_devices: int) -> Parallel:
    """How a run on so many devices lays out its state, though they are not here.

    For reading what such a run has saved; its `compile` refuses.
    """

    def refuse(program: Program) -> Program:
        raise ValueError(f"a layout for {num_devices} devices cannot run programs")

    if num_devices == 1:
        return jit()._replace(compile=refuse)
    return Parallel(
        AXIS, num_devices, num_devices, refuse, lambda make: _stack(make, num_devices)
    )


def pmap(num_devices: int | None = None) -> Parallel:
    """Data parallel over the first `num_devices` local devices, all by default.

    Raises:
      ValueError: if there are not so many.
    """
    devices = _first_devices("pmap", num_devices)
    everywhere, dealt = _layouts(devices)

    def compile_(program: Program) -> Program:
        # No stacked copies of the shared state: in and out with no leading axis.
        mapped = jax.pmap(
            program, axis_name=AXIS, in_axes=(None, 0), out_axes=(None, 0, None),
            donate_argnums=(0, 1), devices=devices,
        )  # fmt: skip

        def call(shared: PyTree, local: PyTree) -> tuple[PyTree, PyTree, PyTree]:
            # Laid out as pmap gives them back, or the second call compiles again.
            # What lies there already stays where it is.
            return mapped(
                jax.device_put(shared, everywhere), jax.device_put(local, dealt)
            )

        return call

    return Parallel(
        AXIS, len(devices), len(devices), compile_,
        lambda make: _stack(make, len(devices)),
    )  # fmt: skip


def mesh(num_devices: int | None = None) -> Parallel:
    """Data parallel by the compiler: one program whose batch lies on many devices.

    The shared state is on every device. Leaves of the local state whose first axis the
    devices can share evenly are dealt out along it, the others are on every device, so
    rows and texts of a batch should be a multiple of D: it changes no result, only who
    works. For a program all is as on one device.

    Args:
      num_devices: D, all local ones by default.

    Raises:
      ValueError: if there are not so many.
    """
    devices = _first_devices("mesh", num_devices)
    everywhere, dealt = _layouts(devices)

    def places(local: PyTree) -> PyTree:
        def place(x):
            even = x.ndim and x.shape[0] and x.shape[0] % len(devices) == 0
            return dealt if even else everywhere

        return jax.tree.map(place, local)

    def compile_(program: Program) -> Program:
        def placed(shared: PyTree, local: PyTree) -> tuple[PyTree, PyTree, PyTree]:
            # Given back as it came, or donation and the next call would copy.
            found = program(shared, local)
            where = (everywhere, places(found[1]), everywhere)
            return jax.lax.with_sharding_constraint(found, where)

        compiled = jax.jit(placed, donate_argnums=(0, 1))

        def call(shared: PyTree, local: PyTree) -> tuple[PyTree, PyTree, PyTree]:
            local = jax.device_put(local, places(local))
            return compiled(jax.device_put(shared, everywhere), local)

        return call

    return jit()._replace(compile=compile_, sharers=len(devices))


def _first_devices(name: str, num_devices: int | None) -> list[jax.Device]:
    devices = jax.local_devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise ValueError(
            f"{name} over {count} devices, but {len(devices)} are at hand: {devices}"
        )
    return devices[:count]


def _layouts(devices: list[jax.Device]) -> tuple[jax.sharding.NamedSharding, ...]:
    """On every device, and dealt out along the first axis."""
    over = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return tuple(
        jax.sharding.NamedSharding(over, jax.sharding.PartitionSpec(*axes))
        for axes in ((), (AXIS,))
    )


def share(total: int, num_devices: int, name: str) -> int:
    """What falls to each device.

    Raises:
      ValueError: if `total` cannot be dealt out evenly.
    """
    if total % num_devices:
        raise ValueError(
            f"{name} is {total}, which {num_devices} devices cannot share evenly"
        )
    return total // num_devices


def rounded(rows: int, parallel: Parallel) -> int:
    """Rows of each share of a batch: `rows` or a few more, so that all have work."""
    within = parallel.sharers // parallel.num_devices
    return -(-rows // within) * within


def split_batch(batch: PyTree, num_devices: int) -> PyTree:
    """Deals out a global batch: leaves [B, ...] become [D, B / D, ...]."""
    return jax.tree.map(
        lambda x: x.reshape(
            num_devices, share(x.shape[0], num_devices, "a batch"), *x.shape[1:]
        ),
        batch,
    )


def stacked(local: PyTree, num_devices: int) -> PyTree:
    """A local state with a leading device axis, also where there is one device."""
    return local if num_devices > 1 else jax.tree.map(lambda x: x[None], local)


def unstacked(local: PyTree, num_devices: int) -> PyTree:
    """The inverse of `stacked`: no extra axis for one device."""
    return local if num_devices > 1 else jax.tree.map(lambda x: x[0], local)


def deal(leaf: jax.Array, num_devices: int) -> jax.Array:
    """Deals what D devices hold, [D, M, ...], to others: [D', D * M / D', ...]."""
    total = leaf.shape[0] * leaf.shape[1]
    part = share(total, num_devices, "what the saved devices hold")
    return leaf.reshape(num_devices, part, *leaf.shape[2:])
