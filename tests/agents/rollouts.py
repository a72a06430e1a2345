"""Answers of the tiny decoder's log in groups, with junk where nothing is."""

import jax.numpy as jnp
import numpy as np

from rljax.agents import token_rl
from rljax.data import packing
from tests.agents import offline_texts as toy

GROUP = 2
LOG = [e._replace(line=n) for n, e in enumerate(toy.log(16))]
LENGTH = max(int(e.action.sum()) for e in LOG)


def packed(num_devices: int = 1, log=None):
    """All answers as one batch; its lines are their numbers."""
    log = LOG if log is None else log
    items = [tuple(log[i : i + GROUP]) for i in range(0, len(log), GROUP)]
    plan = packing.make_plan(items, len(items), 1, 0, num_devices, tokens=32)
    return packing.pack(plan._replace(actions=LENGTH), items)


def rollout(value: bool = True, seed: int = 3, log=None) -> token_rl.Rollout:
    """What was thought of them: random numbers, NaN where there is no token."""
    log = LOG if log is None else log
    rng = np.random.default_rng(seed)
    count = np.array([int(e.action.sum()) for e in log])
    mask = np.arange(LENGTH) < count[:, None]

    def drawn(low, high):
        found = rng.uniform(low, high, mask.shape).astype(np.float32)
        return jnp.asarray(np.where(mask, found, np.nan))

    judged = np.ones(len(log), bool)
    judged[5] = False
    reward = np.array([e.reward for e in log], np.float32)
    reward[[2, 3]] = 1.0  # a group without a difference
    return token_rl.Rollout(
        log_p=drawn(-3, -1),
        log_p_ref=drawn(-3, -1),
        value=drawn(-0.2, 1) if value else None,
        mask=jnp.asarray(mask),
        reward=jnp.asarray(np.where(judged, reward, np.nan)),
        judged=jnp.asarray(judged),
        replayed=jnp.arange(len(log)) % 4 < 2,
        warming=jnp.array(False),
    )
