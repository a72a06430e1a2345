"""Trains SAC-GLAM on Playground-Text.

    python -m experiments.sac_glam \
        --config=experiments/configs/sac_glam.py:quickstart --workdir=runs/a
"""

from typing import Any

import numpy as np

from experiments import border, playground, run
from experiments.border import AT_LEAST_ONE, POSITIVE, SHARE, Limit, require
from rljax.agents import sac_glam
from rljax.losses import sac, soft_bellman
from rljax.replay import hindsight, strategies
from rljax.training import devices, off_policy

ERRORS = {
    "sigmoid_cross_entropy": soft_bellman.sigmoid_cross_entropy,
    "squared_error": soft_bellman.squared_error,
}
STRATEGIES = {
    "achieved": strategies.achieved,
    "final": strategies.final,
    "future": strategies.future,
    "episode": strategies.episode,
    "random": strategies.random,
}
CHOICES = {
    "uniform": strategies.uniform,
    "uniform_by_kind": strategies.uniform_by_kind,
    "inverse_frequency": strategies.inverse_frequency,
}
AGENT_LIMITS = {
    "learning_rate": POSITIVE,
    "max_grad_norm": POSITIVE,
    "alpha": POSITIVE,
    "alpha_target_ratio": SHARE,
    "alpha_learning_rate": POSITIVE,
    "alpha_decay": Limit(0),
    "entropy_in_target": SHARE,
    "target_step": Limit(0, 1, above=True),
    "warmup_updates": Limit(0),
    "actor_weight": Limit(0),
    "reward_scale": POSITIVE,
    "kl_weight": Limit(0),
}
LOOP_LIMITS = {
    "num_envs": AT_LEAST_ONE,
    "steps_per_iteration": AT_LEAST_ONE,
    "updates_per_iteration": AT_LEAST_ONE,
    "iterations_per_call": AT_LEAST_ONE,
    "batch_size": AT_LEAST_ONE,
    "capacity": AT_LEAST_ONE,
    "relabelled_capacity": AT_LEAST_ONE,
    "min_size": AT_LEAST_ONE,
    "random_steps": Limit(0),
    "n_step": AT_LEAST_ONE,
    "gamma": SHARE,
    "her_ratio": SHARE,
}
GROUPS = {"agent": sac_glam.Config, "loop": off_policy.Config}


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    agent_config = border.typed(config.agent, sac_glam.Config, AGENT_LIMITS, "agent")
    loop_config = border.typed(config.loop, off_policy.Config, LOOP_LIMITS, "loop")
    error = border.pick(ERRORS, config.critic_error, "critic_error")
    task = playground.make_task(config)
    _check(config, agent_config, loop_config, error, task)
    how = make_hindsight(config, loop_config, task)

    def make_method(parallel: devices.Parallel) -> run.Method:
        try:
            off_policy.check(loop_config, parallel.sharers)
        except ValueError as fault:
            raise border.ConfigError(f"config.loop: {fault}") from fault
        agent = sac_glam.make(
            task.networks, task.read, agent_config, error, parallel.axis_name
        )
        parts = off_policy.Parts(
            task.env, agent, how, loop_config, parallel.num_devices, parallel.axis_name
        )
        iterations = loop_config.iterations_per_call
        return run.Method(
            agent=agent,
            program=off_policy.make(parts),
            init_local=lambda key, index: off_policy.init_local(parts, key, index),
            redistribute=off_policy.redistribute,
            steps_per_call=iterations
            * loop_config.steps_per_iteration
            * loop_config.num_envs,
            updates_per_call=iterations * loop_config.updates_per_iteration,
        )

    run.train(config, workdir, task, make_method)


def make_hindsight(
    config: Any, loop_config: off_policy.Config, task: playground.Task
) -> hindsight.Hindsight | None:
    """How finished episodes are told again; None where her_ratio is 0."""
    how = config.hindsight
    known = how.her_k is not None
    require(known and how.her_k >= 1, "hindsight.her_k", how.her_k, "at least 1")
    strategy = border.pick(STRATEGIES, how.strategy, "hindsight.strategy")
    choice = border.pick(CHOICES, how.choice, "hindsight.choice")
    if loop_config.her_ratio == 0:
        return None
    goals, pairs = task.goals, None
    if config.env.sequences:
        pairs = goals.sequence_allowed & goals.train[:, None]
    second_kind = 2 + np.broadcast_to(goals.kind[None], goals.sequence_allowed.shape)
    table = strategies.goal_table(goals.train, pairs, goals.kind, second_kind)
    return hindsight.Hindsight(
        table=table,
        with_goal=task.env.with_goal,
        strategy=strategy,
        weighting=choice,
        her_k=how.her_k,
        num_steps=loop_config.n_step,
        gamma=loop_config.gamma,
    )


def _check(config, agent_config, loop_config, error, task) -> None:
    """What single keys cannot know."""
    require(
        not (agent_config.alpha_decay and agent_config.alpha_target_ratio),
        "agent.alpha_decay", agent_config.alpha_decay,
        "0 where agent.alpha_target_ratio moves alpha, "
        f"{agent_config.alpha_target_ratio:g}",
    )  # fmt: skip
    require(
        loop_config.n_step <= config.env.limit,
        "loop.n_step", loop_config.n_step, f"at most env.limit, {config.env.limit}",
    )  # fmt: skip
    require(
        loop_config.batch_size <= loop_config.capacity,
        "loop.batch_size", loop_config.batch_size,
        f"at most loop.capacity, {loop_config.capacity}",
    )  # fmt: skip
    if error.high <= 1:
        require(
            agent_config.reward_scale <= 1,
            "agent.reward_scale", agent_config.reward_scale,
            "at most 1 with sigmoid_cross_entropy, whose Q lies in [0, 1]",
        )  # fmt: skip
        require(
            agent_config.entropy_in_target == 0,
            "agent.entropy_in_target", agent_config.entropy_in_target,
            "0 with sigmoid_cross_entropy, whose Q lies in [0, 1]",
        )  # fmt: skip
    commands = task.env.sizes.commands
    # An alpha that is learnt may rise: then this says nothing of later.
    bound = "at first" if agent_config.alpha_target_ratio else "at most"
    worth = sac.never_succeeding_worth(
        agent_config.alpha, agent_config.entropy_in_target, commands, loop_config.gamma
    )
    print(
        f"worth of never succeeding: {bound} {worth:.3g} (entropy bonuses of "
        f"{commands} commands at alpha {agent_config.alpha:g}, "
        f"entropy_in_target {agent_config.entropy_in_target:g}); "
        f"worth of success: {agent_config.reward_scale:g}"
    )
    require(
        worth < agent_config.reward_scale or config.allow_entropy_trap,
        "agent.entropy_in_target", agent_config.entropy_in_target,
        "so small that never succeeding is worth less than success: now it is worth "
        f"{worth:.3g}, success {agent_config.reward_scale:g}. Lower agent.alpha, "
        "raise agent.reward_scale, or set --config.allow_entropy_trap=True",
    )  # fmt: skip


if __name__ == "__main__":
    border.run(main, __doc__, GROUPS)
