"""The losses solve small decision problems whose answers are known.

Each trains a table of Q and a table of scores by gradient descent, on all transitions
of the problem at once: the critic's target is made of the tables themselves.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import sac
from rljax.losses.soft_bellman import (
    sigmoid_cross_entropy,
    soft_bellman_loss,
    soft_value,
    squared_error,
)
from rljax.optim.optimizers import adam, polyak, warmup_decay


class Problem(NamedTuple):
    """Deterministic; K states, A commands, -inf in `admitted` rules one out."""

    admitted: np.ndarray  # [K, A], 0 or -inf
    reward: np.ndarray  # [K, A]
    discount: np.ndarray  # [K, A], 0 where the episode ends
    reached: np.ndarray  # int [K, A]


@functools.partial(jax.jit, static_argnames=("error", "updates"))
def solve(problem, alpha, entropy_share, error=squared_error, updates=2000, rate=0.1):
    """Q and log pi, both [K, A], after training from zero tables."""
    optimizer = adam(warmup_decay(rate, 0, updates))
    k, a = problem.reward.shape
    left, taken = [
        x.reshape(-1) for x in jnp.meshgrid(jnp.arange(k), jnp.arange(a), indexing="ij")
    ]
    real = problem.admitted[left, taken] == 0
    r_t, discount_t, reached = (x[left, taken] for x in problem[1:])

    def log_policy(scores):
        return jax.nn.log_softmax(scores + problem.admitted)

    def loss(params, slow):
        raw, scores = params
        v = soft_value(error.to_q(slow), log_policy(scores), entropy_share * alpha)
        critic = soft_bellman_loss(
            raw[left], taken, r_t, discount_t, v[reached], real, error
        )
        actor = sac.policy_loss(
            log_policy(scores), error.to_q(raw), alpha, jnp.ones(k, bool)
        )
        return k * a * critic.loss + k * actor.loss

    def update(state, _):
        params, slow, opt_state = state
        grads = jax.grad(loss)(params, slow)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        raw, scores = jax.tree.map(jnp.add, params, updates)
        return ((raw, scores), polyak(slow, raw, 0.5), opt_state), None

    params = (jnp.zeros((k, a)), jnp.zeros((k, a)))
    start = (params, params[0], optimizer.init(params))
    (raw, scores), *_ = jax.lax.scan(update, start, length=updates)[0]
    return error.to_q(raw), log_policy(scores)


def test_soft_q_in_closed_form():
    """A state that comes back to itself whatever is done, and one that leads there.

    In state 1, Q(a) = r_a + gamma V with V = alpha log sum_a exp(Q(a) / alpha), so
    V = alpha log sum_a exp(r_a / alpha) / (1 - gamma) and pi = softmax(r / alpha).
    In state 0 one command leads to state 1, one ends; the third is not admitted.
    """
    alpha, gamma = 0.5, 0.8
    r = np.array([[0.3, 1.0, np.nan], [0.2, -0.4, 0.9]], np.float32)
    problem = Problem(
        admitted=np.array([[0, 0, -np.inf], [0, 0, 0]], np.float32),
        reward=r,
        discount=np.array([[gamma, 0, np.nan], [gamma] * 3], np.float32),
        reached=np.ones((2, 3), np.int32),
    )
    v_1 = alpha * np.log(np.exp(r[1] / alpha).sum()) / (1 - gamma)
    q_0 = np.array([0.3 + gamma * v_1, 1.0])
    q, log_pi = solve(problem, alpha, 1.0)
    np.testing.assert_allclose(q[1], r[1] + gamma * v_1, atol=1e-3)
    np.testing.assert_allclose(q[0, :2], q_0, atol=1e-3)
    pi_1 = np.exp(r[1] / alpha) / np.exp(r[1] / alpha).sum()
    np.testing.assert_allclose(np.exp(log_pi[1]), pi_1, atol=1e-3)
    pi_0 = np.exp((q_0 - q_0.max()) / alpha)
    np.testing.assert_allclose(np.exp(log_pi[0, :2]), pi_0 / pi_0.sum(), atol=1e-3)
    assert np.exp(log_pi[0, 2]) == 0.0


GAMMA, ALPHA, COMMANDS = 0.99, 0.05, 9


def two_states():
    """Alive and done. The first of nine commands succeeds; the rest change nothing."""
    succeeds = np.arange(COMMANDS) == 0
    return Problem(
        admitted=np.zeros((1, COMMANDS), np.float32),
        reward=succeeds[None].astype(np.float32),
        discount=np.where(succeeds, 0.0, GAMMA)[None].astype(np.float32),
        reached=np.zeros((1, COMMANDS), np.int32),
    )


def success_within(log_pi, steps):
    return 1 - (1 - np.exp(float(log_pi[0, 0]))) ** steps


def test_entropy_in_the_target_pays_for_never_succeeding():
    worth = sac.never_succeeding_worth(ALPHA, 1.0, COMMANDS, GAMMA)
    assert 10.9 < worth < 11.0  # against a reward of 1
    q, log_pi = solve(two_states(), ALPHA, 1.0, updates=6000)
    assert success_within(log_pi, 100) < 1e-3
    # It earns what the eight commands that change nothing pay for.
    alive = sac.never_succeeding_worth(ALPHA, 1.0, COMMANDS - 1, GAMMA)
    np.testing.assert_allclose(q[0, 1:], GAMMA * alive, rtol=0.02)
    np.testing.assert_allclose(q[0, 0], 1.0, atol=1e-3)


@pytest.mark.parametrize("error", [squared_error, sigmoid_cross_entropy])
def test_without_it_the_same_agent_succeeds(error):
    q, log_pi = solve(two_states(), ALPHA, 0.0, error, updates=6000)
    # p = pi(success) solves p = 1 / (1 + 8 exp((gamma V - 1) / alpha)) with
    # V = p + (1 - p) gamma V: success is not worth hurrying for, at this alpha.
    p = 0.5
    for _ in range(1000):
        v = p / (1 - (1 - p) * GAMMA)
        p = 0.5 * p + 0.5 / (1 + 8 * np.exp((GAMMA * v - 1) / ALPHA))
    np.testing.assert_allclose(np.exp(log_pi[0, 0]), p, rtol=0.05)
    np.testing.assert_allclose(q[0, 1:], GAMMA * v, atol=0.01)
    assert success_within(log_pi, 50) > 0.99
