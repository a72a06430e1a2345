"""Optimisers, slow copies of parameters, and refusing an update that is not finite."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax.types import Params, PyTree


def warmup_decay(
    peak: float, warmup: int, total: int, end_fraction: float = 0.0
) -> optax.Schedule:
    """A learning rate that rises linearly from 0, then falls linearly.

    Args:
      peak: learning rate after `warmup` updates.
      warmup: updates of the rise; 0 starts at the peak.
      total: updates after which it stays at its end.
      end_fraction: share of the peak it ends at; 1 for a rise without a fall.

    Returns:
      Update count -> learning rate.

    Raises:
      ValueError: if an argument is outside its range.
    """
    if not 0 <= warmup < total:
        raise ValueError(f"warmup is {warmup}, must be within [0, total = {total})")
    if not 0 <= end_fraction <= 1:
        raise ValueError(f"end_fraction is {end_fraction}, must be within [0, 1]")
    rise = optax.linear_schedule(0.0, peak, warmup)
    fall = optax.linear_schedule(peak, end_fraction * peak, total - warmup)
    return optax.join_schedules([rise, fall], [warmup]) if warmup else fall


def adam(
    learning_rate: optax.ScalarOrSchedule,
    max_norm: float | None = None,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam, with decoupled weight decay and clipping by the global norm.

    Parameters narrower than float32 are stepped in float32 (`in_float32`).

    The norm is that of the gradient handed in: under pmap, hand in the psum, so that
    every device clips alike.

    Args:
      learning_rate: a number, or update count -> number.
      max_norm: largest global norm of a gradient; None for no clipping.
      weight_decay: share of the parameters taken off per unit of learning rate.
      b1: decay of the first moment.
      b2: decay of the second moment.
      epsilon: added to the root of the second moment.

    Returns:
      An optimiser with `init` and `update`.

    Raises:
      ValueError: if an argument is outside its range.
    """
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}, must be above 0 (None: no clipping)")
    if weight_decay < 0:
        raise ValueError(f"weight_decay is {weight_decay}, must be at least 0")
    clip = [] if max_norm is None else [optax.clip_by_global_norm(max_norm)]
    decay = [] if weight_decay == 0 else [optax.add_decayed_weights(weight_decay)]
    return in_float32(
        optax.chain(
            *clip,
            optax.scale_by_adam(b1, b2, epsilon),
            *decay,
            optax.scale_by_learning_rate(learning_rate),
        )
    )


class WideState(NamedTuple):
    """What `in_float32` carries for parameters that are narrower."""

    wide: Params  # the parameters, float32 at least
    inner: optax.OptState


def in_float32(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Steps float32 copies of parameters that are narrower, and rounds after.

    A bfloat16 weight keeps 8 bits: a step below 1/512 of it is rounded away, and Adam's
    moments with it. So both live in float32, and the narrow parameters are what the
    wide ones round to. Without narrow parameters it is `optimizer` itself.

    Source: Micikevicius et al., "Mixed Precision Training", 2018, section 3.1.

    Args:
      optimizer: what steps the wide copies.

    Returns:
      An optimiser for the narrow ones, to be used with `optax.apply_updates`.
    """

    def init(params):
        if not _any_narrow(params):
            return optimizer.init(params)
        wide = jax.tree.map(_widen, params)
        return WideState(wide, optimizer.init(wide))

    def update(updates, state, params=None):
        if not isinstance(state, WideState):
            return optimizer.update(updates, state, params)
        grads = jax.tree.map(_widen, updates)
        step, inner = optimizer.update(grads, state.inner, state.wide)
        wide = optax.apply_updates(state.wide, step)
        # Added to the narrow parameters in float32, which gives `wide`, then rounded.
        change = jax.tree.map(lambda w, p: w - _widen(p), wide, params)
        return change, WideState(wide, inner)

    return optax.GradientTransformation(init, update)


def _widen(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _any_narrow(params: Params) -> bool:
    return any(_widen(x).dtype != x.dtype for x in jax.tree.leaves(params))


def only(
    optimizer: optax.GradientTransformation, trainable: PyTree
) -> optax.GradientTransformation:
    """An optimiser of some of the parameters; the others keep every bit.

    Clipping by a global norm counts the gradients of what is trained alone, and a leaf
    of which nothing is trained has no moments.

    Args:
      optimizer: of what is trained.
      trainable: in the structure of the parameters, or of their beginnings (one leaf
        for a whole branch): True, False, or a mask that broadcasts against the leaf,
        such as bool [L, 1, 1] over stacked layers.

    Returns:
      An optimiser over all parameters.

    Raises:
      ValueError: if nothing is to be trained.
    """
    if not any(np.any(mask) for mask in jax.tree.leaves(trainable)):
        raise ValueError("the mask trains nothing; at least one leaf must be True")

    def keep(tree):
        def branch(mask, part):
            return jax.tree.map(lambda x: jnp.where(mask, x, jnp.zeros_like(x)), part)

        return jax.tree.map(branch, trainable, tree)

    inner = optax.masked(
        optimizer, jax.tree.map(lambda mask: bool(np.any(mask)), trainable)
    )

    def update(updates, state, params=None):
        step, state = inner.update(keep(updates), state, params)
        return keep(step), state

    return optax.GradientTransformation(inner.init, update)


def hard_copy(fast: Params) -> Params:
    """A copy in memory of its own: donating one does not delete the other."""
    return jax.tree.map(jnp.copy, fast)


def slow_copy(fast: Params) -> Params:
    """A copy for `polyak` to move, in float32 at least, since its steps are small."""
    return jax.tree.map(lambda x: jnp.copy(_widen(x)), fast)


def polyak(slow: Params, fast: Params, tau: float) -> Params:
    """Moves a slow copy a little towards the fast parameters.

        slow <- (1 - tau) slow + tau fast

    The slow copy keeps its own dtype, and should be float32 where `tau` is small: in
    bfloat16 a step below 1/256 of a weight is rounded away, and it never moves.

    Args:
      slow: parameters, float leaves.
      fast: parameters of the same structure and shapes.
      tau: share of the way, within [0, 1]; 1 copies.

    Returns:
      The new slow copy.

    Raises:
      ValueError: if `tau` is out of range or the structures differ.
    """
    if not 0 <= tau <= 1:
        raise ValueError(f"tau is {tau}, must be within [0, 1]")

    def mix(slow, fast):
        wide = jnp.promote_types(slow.dtype, fast.dtype)
        mixed = (1.0 - tau) * slow.astype(wide) + tau * fast.astype(wide)
        return mixed.astype(slow.dtype)

    return jax.tree.map(mix, slow, fast)


def all_finite(tree: PyTree) -> jax.Array:
    """Whether no float leaf holds NaN or infinity, bool [].

    Args:
      tree: arrays of any dtype; those that are not float count as finite.

    Returns:
      bool [].
    """
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.array([jnp.isfinite(x).all() for x in leaves] or [True]).all()


def skip_nonfinite(
    old: PyTree, new: PyTree, finite: jax.Array
) -> tuple[PyTree, jax.Array]:
    """The new state if it can be trusted, else the old one, and a count of refusals.

    Under pmap `finite` must be the same on every device: take it from the loss and
    gradients *after* their psum, which spreads a NaN of one device to all.

    Args:
      old: state before the update.
      new: state after it, of the same structure, shapes and dtypes.
      finite: whether to take `new`, bool [] (see `all_finite`).

    Returns:
      The state to go on with, and int32 []: 1 if it is the old one, else 0.

    Raises:
      AssertionError: if the structures, shapes or dtypes differ.
    """
    chex.assert_trees_all_equal_shapes_and_dtypes(old, new)
    kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    return kept, jnp.where(finite, 0, 1).astype(jnp.int32)
