"""Looks at a fixed sample of the log at every evaluation of a run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import border
from experiments.border import AT_LEAST_ONE, Limit
from rljax.agents.offline import OfflineAgent, Reading
from rljax.data import packing
from rljax.losses.token_logprob import Source, token_scores
from rljax.losses.token_mass import token_mass
from rljax.policy import texts as texts_lib
from rljax.policy.texts import Texts
from rljax.training import drift
from rljax.types import Episode, Packed, Params, PyTree

LIMITS = {
    "sample": Limit(0),
    "batch": AT_LEAST_ONE,
    "kl": Limit(0),
    "group_kl": Limit(0),
    "length": Limit(0),
    "right": Limit(high=0),
    "unseen": Limit(0, 1),
}


class Watch(NamedTuple):
    """Looks at a sample of the log; `make` makes it.

    Attributes:
      shown: the sample; nothing where `drift.sample` is 0.
      bounds: of short and of middling answers in the log, as of `drift.thirds`.
      read: the agent's state -> `Reading` of each of the sample, on the host, beside a
        reference; and the probability [L] of tokens that the log never shows.
      look: the agent's state -> metrics `drift/...`.
    """

    shown: list[Episode]
    bounds: tuple[float, float]
    read: Callable[[PyTree], tuple[list[Reading], list[np.ndarray]]]
    look: Callable[[PyTree], dict[str, float]]


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
    config: Any,
    texts: Texts,
    agent: OfflineAgent,
    log: Sequence[Episode],
    size: int,
    weights: Params,
    begun: dict[str, Params],
) -> Watch:
    """What an evaluation has to say of drift.

    Beside an agent without a reference the policy that it begins as is one: it is asked
    here, once, and what it says of the sample stays on the host.

    Args:
      config: its part `drift` is read.
      texts: the policy's.
      agent: what learns.
      log: all that is learnt from.
      size: of the vocabulary.
      weights: that the agent begins with; not kept.
      begun: trees of networks that begin elsewhere; not kept.

    Raises:
      ConfigError: for a setting out of range.
    """
    limits_of(config)
    bounds = drift.thirds([int(episode.action.sum()) for episode in log])
    count = config.drift.sample
    if not count:
        return Watch([], bounds, lambda state: ([], []), lambda state: {})
    shown = drift.sample(log, count, 0)
    items: list[packing.Item] = [(episode,) for episode in shown]
    plan = packing.make_plan(items, min(config.drift.batch, len(items)), 1, 0)
    places = {id(item): n for n, item in enumerate(items)}
    batches = [packing.batch_of(plan, n) for n in range(plan.updates)]
    chosen = jnp.asarray(drift.unseen(log, size))
    asked = (packing.pack(plan, batch) for batch in batches)
    beside: list[Source | None] = [None] * len(batches)
    if not agent.reference:
        beside = _beginning(config.seed, texts, agent, weights, begun, asked)

    @jax.jit
    def ask(state, batch, reference):
        own = _said(texts, agent.policy(state), batch)
        reading = agent.read(state, batch)
        if reference is not None:
            scores = token_scores(*own, batch.action, reference, texts.cap)
            reading = reading._replace(
                kl=scores.kl, reference_log_prob=scores.reference_log_prob
            )
        return reading, token_mass(*own, chosen, texts.cap)

    def read(state: PyTree) -> tuple[list[Reading], list[np.ndarray]]:
        readings: list[Any] = [None] * len(items)
        masses: list[Any] = [None] * len(items)
        for batch, reference in zip(batches, beside, strict=True):
            found = jax.device_get(ask(state, packing.pack(plan, batch), reference))
            for row, item in enumerate(batch):
                one, mass = jax.tree.map(lambda x, i=row: np.asarray(x[i]), found)
                readings[places[id(item)]], masses[places[id(item)]] = one, mass
        return readings, masses

    def look(state: PyTree) -> dict[str, float]:
        return drift.metrics(shown, *read(state), bounds)

    return Watch(shown, bounds, read, look)


def _said(texts: Texts, weights: Params, batch: Packed) -> Source:
    """States before the actions, and the matrix that makes logits of them."""
    return texts_lib.actions(texts, weights, texts.hidden(weights, batch), batch)


def _beginning(seed, texts, agent, weights, begun, batches) -> list[Source | None]:
    """What the policy that a run begins as makes of batches, on the host."""

    @jax.jit
    def ask(weights, begun, batch):
        state = agent.init(jax.random.key(seed), weights, begun)
        return _said(texts, agent.policy(state), batch)

    matrix, found = None, []
    for batch in batches:
        source = ask(weights, begun, batch)
        matrix = jax.device_get(source.unembedding) if matrix is None else matrix
        found.append(Source(jax.device_get(source.hidden), matrix))
    return found
