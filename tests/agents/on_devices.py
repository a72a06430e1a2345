"""Updates on eight devices against the same on one."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.agents.base import Agent
from rljax.training import devices


def assert_eight_equal_one(make_agent, batch, updates: int = 3) -> None:
    """The whole state and the metrics, after some updates on one global batch.

    Args:
      make_agent: axis name -> agent.
      batch: leaves [B, ...], B a multiple of 8.
      updates: how many are taken.
    """
    results = []
    for parallel in (devices.jit(), devices.pmap(8)):
        agent: Agent = make_agent(parallel.axis_name)
        many = parallel.num_devices > 1
        data = devices.split_batch(batch, 8) if many else batch

        def program(state, data, agent=agent):
            state, metrics = agent.update(state, data)
            return state, data, metrics

        compiled = parallel.compile(program)
        state, metrics = agent.init(jax.random.key(0)), {}
        for _ in range(updates):
            data = jax.tree.map(jnp.copy, data)  # it is given away
            state, data, metrics = compiled(state, data)
        results.append((state, metrics))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), *results
    )
