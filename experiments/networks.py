"""The networks of a run, from the weights it begins with or out of a checkpoint."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from rljax.agents.offline import OfflineAgent, State
from rljax.agents.token_rl import TokenAgent
from rljax.training import checkpoint
from rljax.types import Key, Params


class Networks(NamedTuple):
    """Makes an agent's state, once; until then it holds what that begins with.

    Attributes:
      thin: shapes of the state without what is frozen: what a checkpoint has.
      digests: of the weights, for the record of the run.
      init: key -> the state.
      restored: a thin state -> the state.
    """

    thin: State
    digests: dict[str, str]
    init: Callable[[Key], State]
    restored: Callable[[State], State]


def make(
    agent: OfflineAgent | TokenAgent, weights: Params, begun: dict[str, Params]
) -> Networks:
    """The networks of an agent.

    Args:
      agent: of the run.
      weights: of the reference.
      begun: trees of networks that begin elsewhere.
    """
    # Taken out of the lists, so that the state alone holds them.
    weights_held, begun_held = [weights], [begun]
    digests = {"frozen": checkpoint.digest(weights)}
    if begun:
        digests["begun"] = checkpoint.digest(begun)
    shapes = jax.eval_shape(agent.init, jax.random.key(0), weights, begun)

    def restored(state: State) -> State:
        begun_held.clear()
        kept = weights_held.pop()
        if shapes.frozen is None:
            return state
        return dataclasses.replace(state, frozen=kept)

    def init(key: Key) -> State:
        def begin(key, weights, begun):
            state = agent.init(key, weights, begun)
            return dataclasses.replace(state, frozen=None)

        return restored(jax.jit(begin)(key, weights_held[0], begun_held.pop()))

    return Networks(dataclasses.replace(shapes, frozen=None), digests, init, restored)
