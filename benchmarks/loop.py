"""The compiled loop against its parts and against a loop on the host.

Settings of the quickstart, replay filled, the policy acting and learning; all ways
take turns and go on learning from one turn to the next.

`over_sum_of_parts`: an iteration of the compiled loop against its parts, each jitted
alone and called one after the other on the same kind of data; `part_*` are their
milliseconds beside the whole iteration's. `over_host`: environment steps a second,
updates included, against `benchmarks.host_loop`, which scores commands as a trie too;
`over_host_each` against the same host loop with one sequence for every command, as
loops without tries do. `host_*` are the milliseconds of the host's iteration, `model`
being what is left of jitted calls once the host has run out of other work.

    python -m benchmarks.loop --json=FILE
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, host_loop
from benchmarks.host_playground import Rules
from experiments import language_model, playground
from experiments.border import typed
from experiments.configs import sac_glam as configs
from experiments.sac_glam import AGENT_LIMITS, ERRORS, LOOP_LIMITS, make_hindsight
from rljax.agents import sac_glam
from rljax.agents.base import Agent
from rljax.envs import base
from rljax.envs.playground import worlds
from rljax.replay import hindsight, ring, transitions
from rljax.rollout.unroll import environment_keys
from rljax.training import off_policy
from rljax.training.evaluate import SAMPLED
from rljax.types import PyTree

HOST_ITERATIONS, EACH_ITERATIONS = 25, 4  # of a turn
PARTS = ("act", "advance", "store", "relabel", "sample", "update")
HOST_PARTS = ("model", "text", "environment", "replay")


class Setting(NamedTuple):
    """The quickstart, ready to build loops from."""

    config: Any
    task: playground.Task
    parts: off_policy.Parts
    make_agent: Callable[[Any, Any], Agent]  # (networks, read) -> agent


def setting() -> Setting:
    """World, model and sizes of `:quickstart`, at one update a vector step.

    More updates are more of the same program, which both loops call: they would hide
    what a host costs.
    """
    config = configs.get_config("quickstart")
    config.loop.updates_per_iteration = 1
    config.loop.iterations_per_call = 25
    task = playground.make_task(config)
    loop_config = typed(config.loop, off_policy.Config, LOOP_LIMITS, "loop")
    agent_config = typed(config.agent, sac_glam.Config, AGENT_LIMITS, "agent")
    error = ERRORS[config.critic_error]

    def make_agent(networks, read):
        return sac_glam.make(networks, read, agent_config, error)

    how = make_hindsight(config, loop_config, task)
    agent = make_agent(task.networks, task.read)
    parts = off_policy.Parts(task.env, agent, how, loop_config, 1, None)
    return Setting(config, task, parts, make_agent)


class Compiled:
    """The loop itself: a call is `iterations_per_call` iterations."""

    def __init__(self, parts: off_policy.Parts):
        """Plays until the policy acts and learns."""
        self.step = jax.jit(off_policy.make(parts), donate_argnums=(0, 1))
        self.state = jax.jit(parts.agent.init)(jax.random.key(0))
        local = jax.jit(lambda key: off_policy.init_local(parts, key, 0))
        self.local = local(jax.random.key(1))
        config = parts.config
        while int(self.local.env_steps) < config.random_steps + config.min_size:
            self()

    def __call__(self) -> PyTree:
        self.state, self.local, told = self.step(self.state, self.local)
        return told


class InParts:
    """The same iteration, each part a jitted call of its own, timed alone.

    It starts where the compiled loop stands. `turns` holds the seconds of each part
    in each call of as many iterations.
    """

    def __init__(self, parts: off_policy.Parts, start: Compiled):
        """Copies the state, which both overwrite."""
        self.parts = parts
        self.state, self.local = jax.tree.map(jnp.copy, (start.state, start.local))
        self.key = jax.random.key(2)
        self.calls = _jitted(parts)
        self.turns: list[dict[str, float]] = []

    def __call__(self) -> PyTree:
        taken = dict.fromkeys(PARTS, 0.0)

        def timed(name: str, *arguments):
            begin = time.perf_counter()
            out = jax.block_until_ready(self.calls[name](*arguments))
            taken[name] += time.perf_counter() - begin
            return out

        local = self.local
        carried = (local.envs, local.episodes, local.original, local.relabelled)
        obs, counts = local.obs, local.counts
        for _ in range(self.parts.config.iterations_per_call):
            envs, episodes, original, relabelled = carried
            self.key, *keys = jax.random.split(self.key, 4)
            command = timed("act", self.state.params, obs, keys[0])
            envs, step = timed("advance", envs, command)
            episodes, original = timed(
                "store", (episodes, original), obs, command, step
            )
            (relabelled, counts), episodes = timed(
                "relabel", (relabelled, counts), episodes, keys[1], step
            )
            batch = timed("sample", original, relabelled, keys[2])
            self.state = timed("update", self.state, batch)
            obs, carried = step.obs, (envs, episodes, original, relabelled)
        envs, episodes, original, relabelled = carried
        self.local = local.replace(
            envs=envs, obs=obs, episodes=episodes, original=original,
            relabelled=relabelled, counts=counts,
        )  # fmt: skip
        self.turns.append(taken)
        return self.state


def _jitted(parts: off_policy.Parts) -> dict[str, Callable[..., Any]]:
    """What an iteration consists of; the first argument of most is donated."""
    env, agent, config, how = parts.env, parts.agent, parts.config, parts.hindsight
    if how is None:
        raise ValueError("the quickstart has hindsight, this config has none")

    def act(params, obs, key):
        keys = environment_keys(key, config.num_envs)
        return agent.act(params, obs, keys, SAMPLED).command

    def store(carried, obs, command, step):
        episodes, original = carried
        episodes = transitions.write(episodes, obs, command, step)
        items, real = transitions.emit(episodes, step, config.n_step, config.gamma)
        return episodes, ring.add_masked(original, items, real)

    def relabel(carried, episodes, key, step):
        relabelled, counts = carried
        ended = step.terminated | step.truncated
        told = hindsight.relabel(
            key, episodes, ended, step.reached.goal, relabelled, counts, how
        )
        return told, transitions.clear(episodes, ended)

    def sample(original, relabelled, key):
        return ring.sample_two(
            original, relabelled, key, config.batch_size, config.her_ratio
        )[0]

    return {
        "act": jax.jit(act),
        "advance": jax.jit(
            lambda envs, command: base.advance(env, envs, command), donate_argnums=0
        ),
        "store": jax.jit(store, donate_argnums=0),
        "relabel": jax.jit(relabel, donate_argnums=(0, 1)),
        "sample": jax.jit(sample),
        "update": jax.jit(lambda s, b: agent.update(s, b)[0], donate_argnums=0),
    }


def hosts(made: Setting) -> tuple[host_loop.HostLoop, host_loop.HostLoop]:
    """The host loop with tries, and with one sequence for every command."""
    task, config = made.task, made.config
    rules = Rules(worlds.world_a(), task.goals)
    size = language_model.SIZES[config.model.size](len(task.tokenizer))
    each = host_loop.one_sequence_each(task.networks, size, task.tokenizer.eos_token_id)
    agents = (
        made.make_agent(task.networks, host_loop.read_tries(task.env.sizes.trie_nodes)),
        made.make_agent(each, lambda text: text),
    )
    loops = []
    for agent in agents:
        loop = host_loop.HostLoop(
            rules, task.tokenizer, task.env.sizes, agent, made.parts.config,
            config.env.num_objects, config.env.inventory, config.hindsight.her_k,
        )  # fmt: skip
        loops.append(loop)
    limits = made.parts.config
    needed = (limits.random_steps + limits.min_size) // limits.num_envs + 1
    loops[0].iterate(needed)
    # What it costs does not depend on whether acting was learnt: fill, then go on.
    loops[1].ring, loops[1].relabelled = loops[0].ring, loops[0].relabelled
    loops[1].env_steps = loops[0].env_steps
    return loops[0], loops[1]


def main() -> None:
    """Times the loops in turns, prints the table, writes the JSON."""
    arguments = common.parse_arguments(__doc__ or "")
    made = setting()
    compiled = Compiled(made.parts)
    in_parts = InParts(made.parts, compiled)
    host, each = hosts(made)
    before: list[dict[str, float]] = []

    def host_turn():
        before.append(dict(host.seconds))
        return host.iterate(HOST_ITERATIONS)

    times = common.interleave(
        {
            "loop": compiled,
            "parts": in_parts,
            "host": host_turn,
            "each": lambda: each.iterate(EACH_ITERATIONS),
        },
        arguments.rounds,
        max_seconds=240.0,
    )
    iterations = made.parts.config.iterations_per_call
    # The first turn of each compiled; an iteration's seconds from here on.
    turns = in_parts.turns[1:]
    times = {
        "loop": times["loop"] / iterations,
        "sum": np.array([sum(turn.values()) for turn in turns]) / iterations,
        "host": times["host"] / HOST_ITERATIONS,
        "each": times["each"] / EACH_ITERATIONS,
    }
    for part in PARTS:
        times[part] = np.array([turn[part] for turn in turns]) / iterations
    ends = [*before[2:], dict(host.seconds)]
    for part in HOST_PARTS:
        spent = [b[part] - a[part] for a, b in zip(before[1:], ends, strict=True)]
        times[f"host_{part}"] = np.array(spent) / HOST_ITERATIONS
    common.finish(rows_of(times, made.parts.config.num_envs), arguments.json)


def rows_of(times: common.Times, num_envs: int) -> list[common.Row]:
    """The table; `times` are seconds of an iteration."""
    rows = [common.growth("over_sum_of_parts", times, "loop", "sum", target=1.05)]
    rows += [common.growth(f"part_{p}", times, p, "loop", target=None) for p in PARTS]
    for name, peer, target in (
        ("over_host", "host", 10.0),
        ("over_host_each", "each", None),
    ):
        ours, theirs = (num_envs / np.median(times[key]) for key in ("loop", peer))
        ratio = float(np.median(times[peer] / times["loop"]))
        rows.append(
            common.Row(
                name, float(ours), float(theirs), "steps/s", ratio, target, "higher"
            )
        )
    return rows + [
        common.growth(f"host_{p}", times, f"host_{p}", "host", target=None)
        for p in HOST_PARTS
    ]


if __name__ == "__main__":
    main()
