"""Looks at a fixed sample of the log at every evaluation of a run."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import border
from experiments.border import AT_LEAST_ONE, Limit
from rljax.agents.offline import OfflineAgent
from rljax.data import packing
from rljax.losses.token_mass import token_mass
from rljax.policy import texts as texts_lib
from rljax.policy.texts import Texts
from rljax.training import drift
from rljax.types import Episode, PyTree

LIMITS = {
    "sample": Limit(0),
    "batch": AT_LEAST_ONE,
    "kl": Limit(0),
    "group_kl": Limit(0),
    "length": Limit(0),
    "right": Limit(high=0),
    "unseen": Limit(0, 1),
}


def limits_of(config: Any) -> drift.Limits:
    """What raises an alarm, as a config says."""
    border.limits(config, {f"drift.{key}": limit for key, limit in LIMITS.items()})
    return drift.Limits(
        **{
            key: value
            for key, value in config.drift.items()
            if key not in ("sample", "batch")
        }
    )


def make(
    config: Any, texts: Texts, agent: OfflineAgent, log: Sequence[Episode], size: int
) -> Callable[[PyTree], dict[str, float]]:
    """What an evaluation has to say of drift.

    Args:
      config: its part `drift` is read.
      texts: the policy's.
      agent: what learns.
      log: all that is learnt from.
      size: of the vocabulary.

    Returns:
      The agent's state -> metrics `drift/...`; none where `drift.sample` is 0.

    Raises:
      ConfigError: for a setting out of range.
    """
    limits_of(config)
    count = config.drift.sample
    if not count:
        return lambda state: {}
    shown = drift.sample(log, count, 0)
    items = [(episode,) for episode in shown]
    plan = packing.make_plan(items, min(config.drift.batch, len(items)), 1, 0)
    places = {id(item): n for n, item in enumerate(items)}
    chosen = jnp.asarray(drift.unseen(log, size))

    @jax.jit
    def ask(state, batch):
        weights = agent.policy(state)
        own = texts_lib.actions(texts, weights, texts.hidden(weights, batch), batch)
        return agent.read(state, batch), token_mass(*own, chosen, texts.cap)

    def look(state: PyTree) -> dict[str, float]:
        readings: list[Any] = [None] * len(items)
        masses: list[Any] = [None] * len(items)
        for n in range(plan.updates):
            batch = packing.batch_of(plan, n)
            found = jax.device_get(ask(state, packing.pack(plan, batch)))
            for row, item in enumerate(batch):
                one, mass = jax.tree.map(lambda x, i=row: np.asarray(x[i]), found)
                readings[places[id(item)]], masses[places[id(item)]] = one, mass
        # An agent without a reference gives zeros for it.
        known = any(np.any(reading.reference_log_prob) for reading in readings)
        return drift.metrics(shown, readings, masses, known)

    return look
