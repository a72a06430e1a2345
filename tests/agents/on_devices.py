"""Updates on eight devices, under pmap and over a mesh, against the same on one."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.agents.base import Agent
from rljax.agents.offline import Optimizer
from rljax.training import devices
from tests.agents import offline_texts

# Of agents held to each other here. Adam divides a gradient by its own size, so what
# rounding does to one that is nearly 0 moves a parameter as far as a large gradient
# does; epsilon is above such ones. And what two updates differ by grows in the third
# with the rate. With 1e-8 and 1e-2 the outcome hung on the kind of processor.
STEADY = Optimizer(learning_rate=1e-3, warmup=0.0, max_grad_norm=1e9, epsilon=1e-3)


def assert_eight_equal_one(
    make_agent, batch, updates: int = 3, ways=(devices.pmap,)
) -> None:
    """The whole state and the metrics, after some updates on one global batch.

    Args:
      make_agent: axis name -> agent.
      batch: leaves [B, ...], B a multiple of 8.
      updates: how many are taken.
      ways: over eight devices.
    """

    def result(parallel):
        agent: Agent = make_agent(parallel.axis_name)
        many = parallel.num_devices > 1
        data = devices.split_batch(batch, 8) if many else batch
        compiled = parallel.compile(_as_program(agent))
        state, metrics = agent.init(jax.random.key(0)), {}
        for _ in range(updates):
            data = jax.tree.map(jnp.copy, data)  # it is given away
            state, data, metrics = compiled(state, data)
        return state, metrics

    one = result(devices.jit())
    for way in ways:
        _assert_close(result(way(8)), one, rtol=2e-5, atol=1e-6)


def assert_logs_learnt_alike(
    make_agent, begin, items, ways=(devices.pmap,), updates: int = 3
) -> None:
    """The whole state and the metrics of an agent that learns from logs.

    Eight devices have the texts in other rows, so sums of float32 come in another
    order, and gradients differ in their last digits. Gradients of later updates are
    taken at parameters that differ, and of whole answers they are large: a norm of 7
    was seen to differ by 8e-4, and squares of gradients by 3 in 10,000.

    Args:
      make_agent: axis name -> agent, whose optimisers are `STEADY`.
      begin: agent -> its state.
      items: of one batch, a multiple of 8.
      ways: over eight devices.
      updates: how many are taken.
    """

    def result(parallel):
        agent = make_agent(parallel.axis_name)
        compiled = parallel.compile(_as_program(agent))
        state, told = begin(agent), {}
        for _ in range(updates):
            batch = offline_texts.batch(items, parallel.num_devices)
            state, _, told = compiled(state, batch)
        return state, told

    one, one_told = result(devices.jit())
    for way in ways:
        state, told = result(way(8))
        _assert_close(state.params, one.params, rtol=2e-5, atol=2e-6)
        _assert_close(state.opt_state, one.opt_state, rtol=5e-4, atol=1e-5)
        _assert_close(told, one_told, rtol=5e-4, atol=1e-5)
        assert int(state.updates) == updates and int(state.skipped) == 0


def _as_program(agent):
    def program(state, data):
        state, metrics = agent.update(state, data)
        return state, data, metrics

    return program


def _assert_close(found, expected, rtol: float, atol: float) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        found, expected,
    )  # fmt: skip
