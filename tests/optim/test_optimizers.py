"""Adam by hand, schedules, slow copies, and updates that are not finite."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax.optim.optimizers import (
    adam,
    all_finite,
    hard_copy,
    only,
    polyak,
    skip_nonfinite,
    slow_copy,
    warmup_decay,
)


def first_update(optimizer, grads, params) -> Any:
    return optimizer.update(grads, optimizer.init(params), params)[0]


def test_first_step_of_adam_by_hand():
    # Moments (1 - b1) g and (1 - b2) g^2, corrected to g and g^2: -lr sign(g).
    params = {"w": jnp.array([1.0, -2.0])}
    optimizer = adam(0.1, weight_decay=0.5)
    grads = {"w": jnp.array([3.0, -0.01])}
    updates = first_update(optimizer, grads, params)
    # Weight decay takes off lr * decay * w besides: 0.05 and -0.1.
    np.testing.assert_allclose(updates["w"], [-0.1 - 0.05, 0.1 + 0.1], rtol=1e-5)


@pytest.mark.parametrize(
    "decay, peer", [(0.0, optax.adam(0.1)), (0.2, optax.adamw(0.1, weight_decay=0.2))]
)
def test_is_optaxs_where_nothing_is_clipped(decay, peer):
    params = jnp.array([1.0, -2.0])
    ours = adam(0.1, max_norm=1e6, weight_decay=decay)
    a, b = ours.init(params), peer.init(params)
    for step in range(3):
        grads = jnp.array([0.3, -1.0]) * (step + 1)
        update_a, a = ours.update(grads, a, params)
        update_b, b = peer.update(grads, b, params)
        chex.assert_trees_all_close(update_a, update_b, rtol=1e-6)


def test_clips_by_the_norm_of_the_whole_tree():
    optimizer = adam(1.0, max_norm=1.0, b1=0.0, epsilon=1.0)
    grads = {"a": jnp.array(3.0), "b": jnp.array(4.0)}
    updates = first_update(optimizer, grads, params=grads)
    # Clipped to (0.6, 0.8), then -g / (|g| + 1) with moments corrected at step 1.
    np.testing.assert_allclose(updates["a"], -0.6 / 1.6, rtol=1e-5)
    np.testing.assert_allclose(updates["b"], -0.8 / 1.8, rtol=1e-5)


def test_warmup_and_decay_by_hand():
    rate = warmup_decay(0.8, warmup=4, total=12, end_fraction=0.25)
    # Up by 0.2 an update to 0.8, then down by 0.6 in 8 updates, and there it stays.
    counts = jnp.array([0, 1, 4, 8, 12, 99])
    np.testing.assert_allclose(
        jax.vmap(rate)(counts), [0.0, 0.2, 0.8, 0.5, 0.2, 0.2], rtol=1e-6
    )
    np.testing.assert_allclose(warmup_decay(0.8, 0, 8)(0), 0.8)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: adam(0.1, max_norm=0.0), "max_norm is 0.0, must be above 0"),
        (
            lambda: adam(0.1, weight_decay=-1.0),
            "weight_decay is -1.0, must be at least",
        ),
        (
            lambda: warmup_decay(0.1, 5, 5),
            r"warmup is 5, must be within \[0, total = 5",
        ),
        (lambda: warmup_decay(0.1, 0, 5, 2.0), "end_fraction is 2.0, must be within"),
        (lambda: polyak({}, {}, 1.5), "tau is 1.5, must be within"),
    ],
)
def test_errors_name_the_value_and_the_limit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_polyak_by_hand():
    slow, fast = {"w": jnp.array([0.0, 4.0])}, {"w": jnp.array([1.0, 8.0])}
    np.testing.assert_allclose(polyak(slow, fast, 0.25)["w"], [0.25, 5.0])
    chex.assert_trees_all_equal(polyak(slow, fast, 0.0), slow)
    chex.assert_trees_all_equal(polyak(slow, fast, 1.0), fast)


def test_polyak_keeps_the_slow_copys_dtype():
    slow, fast = jnp.array([1.0]), jnp.array([1.0078125], jnp.bfloat16)
    out = polyak(slow, fast, 0.01)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, [1.000078125], rtol=1e-7)


def test_polyak_refuses_another_structure():
    with pytest.raises(ValueError, match="structure|Dict key"):
        polyak({"a": jnp.ones(1)}, {"b": jnp.ones(1)}, 0.5)


def test_a_hard_copy_outlives_its_donated_original():
    original = jnp.arange(3.0)
    copy = hard_copy({"w": original})
    jax.jit(lambda x: x + 1, donate_argnums=0)(original)
    assert original.is_deleted()
    np.testing.assert_array_equal(copy["w"], [0.0, 1.0, 2.0])


def test_all_finite_looks_at_every_float():
    assert all_finite({"a": jnp.ones(2), "n": jnp.int32(3), "key": jax.random.key(0)})
    assert not all_finite({"a": jnp.ones(2), "b": jnp.array([1.0, jnp.nan])})
    assert not all_finite(jnp.array(jnp.inf, jnp.bfloat16))
    assert all_finite({"n": jnp.int32(3)})


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1.0])
def test_a_nonfinite_update_leaves_everything_as_it_was(bad):
    optimizer = adam(0.1, max_norm=1.0)
    params = {"w": jnp.array([1.0, 2.0])}
    old = (params, optimizer.init(params), jax.random.key(0))

    @jax.jit
    def step(state, grads):
        params, opt_state, key = state
        updates, opt_state = optimizer.update(grads, opt_state, params)
        new = (
            optax.apply_updates(params, updates),
            opt_state,
            jax.random.split(key)[0],
        )
        return skip_nonfinite(state, new, all_finite(grads))

    new, skipped = step(old, {"w": jnp.array([1.0, bad])})
    if jnp.isfinite(bad):
        assert skipped == 0
        assert (new[0]["w"] != params["w"]).all()
        assert new[2] != old[2]
    else:
        assert skipped == 1
        chex.assert_trees_all_equal(new[:2], old[:2])
        assert new[2] == old[2]
    assert skipped.dtype == jnp.int32


def test_skipping_refuses_states_that_differ_in_dtype():
    with pytest.raises(AssertionError):
        skip_nonfinite(jnp.ones(2, jnp.bfloat16), jnp.ones(2), jnp.bool_(True))


def test_narrow_parameters_take_small_steps():
    # 1e-3 a step is below half of bfloat16's 1/128 beside 1: each alone is lost.
    params = {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2)}
    optimizer = adam(1e-3)
    state = optimizer.init(params)
    for _ in range(100):
        grads = jax.tree.map(jnp.ones_like, params)
        step, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, step)
    end: Any = params
    assert end["w"].dtype == jnp.bfloat16 and end["b"].dtype == jnp.float32
    np.testing.assert_allclose(end["b"], 0.9, rtol=1e-4)
    np.testing.assert_array_equal(end["w"], np.asarray(0.9, jnp.bfloat16))


def test_wide_parameters_have_no_copies():
    params = {"w": jnp.ones(3)}
    plain = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(0.1))
    chex.assert_trees_all_equal_structs(adam(0.1).init(params), plain.init(params))


def test_slow_copies_of_narrow_parameters_move():
    fast = {"w": jnp.ones(3, jnp.bfloat16)}
    slow = slow_copy(fast)
    for _ in range(10):
        slow = polyak(slow, {"w": jnp.full(3, 2.0, jnp.bfloat16)}, 1e-3)
    np.testing.assert_allclose(slow["w"], 2.0 - 0.999**10, rtol=1e-6)


def test_only_what_the_mask_says_learns():
    # Two of three stacked layers, one leaf, and nothing of a branch: as if the rest
    # were not there, clipping included.
    params = {"w": jnp.ones((3, 2)), "v": jnp.ones(2), "head": {"a": jnp.ones(4)}}
    mask = {"w": np.array([[False], [True], [True]]), "v": True, "head": False}
    # Not Adam, which would hide the scale of a clipped gradient.
    small = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(0.5),
        optax.sgd(0.1, momentum=0.9),
    )
    optimizer = only(small, mask)
    state = optimizer.init(params)
    assert (4,) not in {x.shape for x in jax.tree.leaves(state)}  # no moments for it
    part = {"w": params["w"][1:], "v": params["v"]}
    small_state = small.init(part)
    found = params
    for i in range(3):
        grads = jax.tree.map(lambda x, i=i: x * (3.0 + i), params)
        step, state = jax.jit(optimizer.update)(grads, state, found)
        found = jax.tree.map(jnp.add, found, step)
        grads = {"w": jnp.full((2, 2), 3.0 + i), "v": jnp.full(2, 3.0 + i)}
        step, small_state = small.update(grads, small_state, part)
        part = jax.tree.map(jnp.add, part, step)
    expected = {
        "w": jnp.concatenate([params["w"][:1], jax.tree.leaves(part)[1]]),
        "v": jax.tree.leaves(part)[0],
        "head": params["head"],
    }
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    assert all(np.all(x != 1) for x in jax.tree.leaves(part))


def test_a_mask_that_trains_nothing_is_refused():
    with pytest.raises(ValueError, match="trains nothing"):
        only(adam(0.1), {"a": False, "b": np.zeros((2, 1), bool)})
