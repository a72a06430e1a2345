"""GAE against a plain loop, rlax, and two episodes by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from rljax.losses.returns import gae

S, E = 7, 3
GAMMA, LAMBDA = 0.9, 0.8


def rollout(seed, ends=0.3) -> Any:
    rng = np.random.default_rng(seed)
    r_t, v_tm1, v_t = rng.normal(size=(3, S, E)).astype(np.float32)
    end = rng.random((S, E)) < ends
    terminated = end & (rng.random((S, E)) < 0.5)
    return r_t, v_tm1, v_t, terminated, end & ~terminated


def reference_gae(r_t, v_tm1, v_t, terminated, truncated):
    out = np.zeros((S, E))
    for e in range(E):
        for s in range(S):
            weight = 1.0
            for i in range(s, S):
                after = 0.0 if terminated[i, e] else GAMMA * v_t[i, e]
                out[s, e] += weight * (r_t[i, e] + after - v_tm1[i, e])
                if terminated[i, e] or truncated[i, e]:
                    break
                weight *= GAMMA * LAMBDA
    return out


@pytest.mark.parametrize("seed", range(3))
def test_gae_matches_the_loop(seed):
    args = rollout(seed)
    actual = jax.jit(gae, static_argnums=(5, 6))(*args, GAMMA, LAMBDA)
    np.testing.assert_allclose(actual, reference_gae(*args), rtol=1e-4, atol=1e-5)


def test_gae_is_rlaxs_inside_one_episode():
    r_t, _, _, never, _ = rollout(0, ends=0.0)
    values = np.random.default_rng(1).normal(size=(S + 1, E))
    values = jnp.asarray(values, jnp.float32)
    expected = jax.vmap(
        lambda r, v: rlax.truncated_generalized_advantage_estimation(
            r, jnp.full(S, GAMMA), LAMBDA, v
        ),
        in_axes=1, out_axes=1,
    )(r_t, values)  # fmt: skip
    actual = gae(r_t, values[:-1], values[1:], never, never, GAMMA, LAMBDA)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def column(*entries, dtype=np.float32) -> Any:
    return np.array(entries, dtype)[:, None]


def test_gae_by_hand_over_two_episodes():
    # gamma = lambda = 1/2. Step 1 is truncated where V = 8; step 3 terminates.
    r_t = column(0, 2, 0, 1)
    v_tm1 = column(1, 1, 1, 1)
    v_t = column(1, 8, 1, np.nan)
    truncated = column(0, 1, 0, 0, dtype=bool)
    terminated = column(0, 0, 0, 1, dtype=bool)
    # delta = 0 + 1/2 - 1, 2 + 8/2 - 1, 0 + 1/2 - 1, 1 - 1
    # A_3 = 0, A_2 = -1/2 + 0, A_1 = 5 (nothing of A_2), A_0 = -1/2 + 5/4
    actual = gae(r_t, v_tm1, v_t, terminated, truncated, 0.5, 0.5)
    np.testing.assert_allclose(actual, column(0.75, 5.0, -0.5, 0.0))


def test_gae_rejects_one_value_too_many():
    r_t, v_tm1, v_t, terminated, truncated = rollout(0)
    longer = jnp.concatenate([v_t, v_t[:1]])  # the habit of passing values at 0..S
    with pytest.raises(AssertionError, match="shape"):
        gae(r_t, v_tm1, longer, terminated, truncated, GAMMA, LAMBDA)
