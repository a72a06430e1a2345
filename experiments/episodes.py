"""Episodes written out: what was seen, what was weighed, what was chosen."""

from typing import Any

import jax
import numpy as np

from experiments import playground
from rljax.agents.base import Agent
from rljax.rollout.unroll import environment_keys
from rljax.training.evaluate import SAMPLED
from rljax.types import Params


def play(
    task: playground.Task, agent: Agent, params: Params, count: int, seed: int = 1
) -> list[dict[str, Any]]:
    """Plays `count` training goals, kinds in equal shares, by the sampled policy.

    Returns:
      A list of {"goal", "kind", "success", "steps"}; a step is {"observation",
      "reward", "commands"}, a command {"text", "prob", "q", "chosen"}, "q" being
      None where there is no Q.
    """
    env = task.env
    if count < 1:
        return []
    states = playground.panel(task, "train", None, seed, count)
    act = jax.jit(agent.act)
    step = jax.jit(jax.vmap(env.step))
    observe = jax.jit(jax.vmap(env.observe))
    told: list[dict[str, Any]] = [{"success": False, "steps": []} for _ in range(count)]
    live = np.ones(count, bool)
    key = jax.random.key(seed)
    for number in range(env.sizes.limit):
        obs = observe(states)
        keys = environment_keys(jax.random.fold_in(key, number), count)
        action = jax.device_get(act(params, obs, keys, SAMPLED))
        states, outcome = step(states, action.command)
        outcome, obs = jax.device_get((outcome, obs))
        for i in np.flatnonzero(live):
            seen = jax.tree.map(lambda x, i=i: x[i], obs)
            if number == 0:
                kind = int(env.goal_kind(seen.goal))
                told[i] |= {
                    "goal": task.goals.text(seen.goal),
                    "kind": env.goal_kinds[kind],
                }
            told[i]["steps"].append(
                {
                    "observation": env.describe(seen),
                    "reward": float(outcome.reward[i]),
                    "commands": _weighed(env.command_texts(seen), action, int(i)),
                }
            )
            told[i]["success"] |= bool(outcome.terminated[i])
        live &= ~(outcome.terminated | outcome.truncated)
        if not live.any():
            break
    return told


def _weighed(texts: list[str], action: Any, i: int) -> list[dict[str, Any]]:
    return [
        {
            "text": text,
            "prob": float(np.exp(action.log_pi[i, slot])),
            "q": None if action.q is None else float(action.q[i, slot]),
            "chosen": slot == int(action.command[i]),
        }
        for slot, text in enumerate(texts)
        if text
    ]
