"""Rewards, advantages and returns of tokens: by hand, against loops, eight devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import token_returns
from rljax.losses.masked import whiten

B, T = 8, 6
NAN = np.nan


def batch(seed) -> Any:
    """Rewards, values, a mask with gaps, and one answer without a token."""
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, B, T)).astype(np.float32)
    mask = rng.random((B, T)) < 0.7
    mask[2] = False
    return np.where(mask, reward, NAN), np.where(mask, value, NAN), mask


def row(*entries) -> Any:
    return jnp.array([entries], jnp.float32)


def test_suffix_mask_by_hand():
    mask = token_returns.suffix_mask(jnp.array([5, 3, 2]), jnp.array([2, 0, 2]), 6)
    np.testing.assert_array_equal(
        mask.astype(int),
        [[0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
    )


def test_reward_is_on_the_last_token():
    mask = jnp.array([[1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(
        token_returns.reward_at_end(jnp.array([2.0, 3.0, NAN]), mask),
        [[0, 0, 2, 0], [0, 0, 0, 3], [0, 0, 0, 0]],
    )


def test_kl_reward_by_hand():
    mask = jnp.array([[True, True, False]])
    found = token_returns.kl_reward(row(-1, -2, NAN), row(-3, -1, NAN), mask, beta=0.1)
    # -0.1 (-1 + 3), -0.1 (-2 + 1).
    np.testing.assert_allclose(found, [[-0.2, 0.1, 0.0]], rtol=1e-6)
    grad = jax.grad(
        lambda x: token_returns.kl_reward(x, row(-3, -1, 0), mask, 0.1).sum()
    )(row(-1, -2, 0))
    np.testing.assert_array_equal(grad, 0.0)


def test_gae_by_hand():
    # V before the three tokens 0.5, 0.6, 0.8, reward 1 at the end, gamma 1.
    # delta: 0.6 - 0.5, 0.8 - 0.6, 1 - 0.8.
    reward, value = row(0, 0, 1, NAN), row(0.5, 0.6, 0.8, NAN)
    mask = jnp.array([[True, True, True, False]])
    found = token_returns.token_gae(reward, value, mask, lambda_=0.5)
    # 0.2; 0.2 + 0.1; 0.1 + 0.15.
    np.testing.assert_allclose(found, [[0.25, 0.3, 0.2, 0.0]], rtol=1e-5)
    one_step = token_returns.token_gae(reward, value, mask, lambda_=0.0)
    np.testing.assert_allclose(one_step, [[0.1, 0.2, 0.2, 0.0]], rtol=1e-5)
    # lambda 1: the sum of rewards, whatever V says in between.
    whole = token_returns.token_gae(reward, value, mask, lambda_=1.0)
    np.testing.assert_allclose(
        whole + jnp.where(mask, value, 0), [[1, 1, 1, 0]], rtol=1e-6
    )


def loop(reward, value, mask, gamma=0.9, lambda_=0.8):
    out = np.zeros((B, T))
    for b in range(B):
        places = np.flatnonzero(mask[b])
        for n, t in enumerate(places):
            weight = 1.0
            for m in range(n, len(places)):
                i = places[m]
                after = value[b, places[m + 1]] if m + 1 < len(places) else 0.0
                out[b, t] += weight * (reward[b, i] + gamma * after - value[b, i])
                weight *= gamma * lambda_
    return out


@pytest.mark.parametrize("seed", range(3))
def test_gae_is_the_loop(seed):
    """With gaps: what is said between two turns is passed over."""
    args = batch(seed)
    found = jax.jit(token_returns.token_gae, static_argnums=(3, 4))(*args, 0.9, 0.8)
    np.testing.assert_allclose(found, loop(*args), rtol=1e-4, atol=1e-5)


def test_a_prefix_changes_no_advantage():
    reward, value, _ = batch(0)
    mask = jnp.broadcast_to(jnp.arange(T) >= 2, (B, T))
    reward, value = np.nan_to_num(reward), np.nan_to_num(value)
    found = token_returns.token_gae(reward, value, mask)
    alone = token_returns.token_gae(reward[:, 2:], value[:, 2:], mask[:, 2:])
    np.testing.assert_array_equal(found[:, 2:], alone)
    np.testing.assert_array_equal(found[:, :2], 0.0)


def test_whitens_each_kind_by_itself():
    advantage = jnp.array([[1.0, 5.0], [100.0, NAN], [104.0, 102.0]])
    mask = jnp.array([[True, True], [True, False], [True, True]])
    found = token_returns.whiten_apart(advantage, mask, jnp.array([False, True, True]))
    # Bare: mean 3, std 2. Replayed: mean 102, variance (4 + 4 + 0) / 3.
    r = 2 / np.sqrt(8 / 3)
    np.testing.assert_allclose(found, [[-1, 1], [-r, 0], [r, 0]], rtol=1e-5, atol=1e-6)
    # The deviation of the replayed is 1.63, that of the bare 2.
    floored = token_returns.whiten_apart(
        advantage, mask, jnp.array([False, True, True]), least=1.8
    )
    np.testing.assert_allclose(
        floored, [[-1, 1], [-2 / 1.8, 0], [2 / 1.8, 0]], rtol=1e-5, atol=1e-6
    )


def test_without_replay_it_is_plain_whitening_bit_for_bit():
    """And from the one compiled program that whitens apart: the share is data."""
    _, value, mask = batch(1)
    none, some = jnp.zeros(B, bool), jnp.arange(B) < 4
    plain = whiten(jnp.asarray(value), jnp.asarray(mask))
    apart = token_returns.whiten_apart(value, mask, none)
    np.testing.assert_array_equal(apart, plain)
    traces = []

    @jax.jit
    def compiled(value, mask, replayed):
        traces.append(1)
        return token_returns.whiten_apart(value, mask, replayed)

    np.testing.assert_allclose(compiled(value, mask, none), plain, rtol=1e-5)
    assert np.any(compiled(value, mask, some) != compiled(value, mask, none))
    assert len(traces) == 1


def test_explained_variance_by_hand():
    mask = jnp.array([[True, True, True, False]])
    returns = row(0, 1, 2, NAN)
    # Var G = 2/3. Errors 0, 0, 1: variance 2/9, so 1 - 1/3.
    found = token_returns.explained_variance(row(0, 1, 1, NAN), returns, mask)
    np.testing.assert_allclose(found, 2 / 3, rtol=1e-6)
    constant = token_returns.explained_variance(row(7, 7, 7, 7), returns, mask)
    np.testing.assert_allclose(constant, 0.0, atol=1e-6)
    worse = token_returns.explained_variance(row(2, 1, 0, 0), returns, mask)
    np.testing.assert_allclose(worse, -3.0, rtol=1e-6)  # errors -2, 0, 2
    assert token_returns.explained_variance(returns, row(3, 3, 3, 3), mask) == 0.0


def test_eight_devices_equal_one():
    _, value, mask = batch(2)
    returns = np.random.default_rng(0).normal(size=(B, T)).astype(np.float32)
    replayed = np.arange(B) % 3 == 0

    def both(axis_name, value, returns, mask, replayed):
        ev = token_returns.explained_variance(value, returns, mask, axis_name)
        if axis_name is not None:
            ev = jax.lax.psum(ev, axis_name)
        return ev, token_returns.whiten_apart(value, mask, replayed, axis_name)

    args = (value, returns, mask, replayed)
    expected = jax.jit(lambda *a: both(None, *a))(*args)
    shards = [x.reshape(8, B // 8, *x.shape[1:]) for x in args]
    found = jax.pmap(lambda *a: both("data", *a), axis_name="data")(*shards)
    np.testing.assert_allclose(found[0], np.full(8, expected[0]), rtol=1e-4)
    np.testing.assert_allclose(
        np.asarray(found[1]).reshape(B, T), expected[1], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: token_returns.reward_at_end(jnp.zeros(2), jnp.ones((3, 2), bool)),
        lambda: token_returns.token_gae(row(0), row(0, 1), jnp.ones((1, 2), bool)),
        lambda: token_returns.token_gae(row(0), row(0), jnp.ones((1, 1))),
        lambda: token_returns.whiten_apart(
            row(0, 1), jnp.ones((1, 2), bool), jnp.ones((1, 2), bool)
        ),
    ],
)
def test_refuses_other_shapes_and_types(wrong):
    with pytest.raises(AssertionError):
        wrong()
