"""Trains PPO-GLAM on Playground-Text.

    python -m experiments.ppo_glam \
        --config=experiments/configs/ppo_glam.py:quickstart --workdir=runs/p
"""

from typing import Any

from experiments import border, playground, run
from experiments.border import AT_LEAST_ONE, POSITIVE, SHARE, Limit
from rljax.agents import ppo_glam
from rljax.training import devices, on_policy

AGENT_LIMITS = {
    "learning_rate": POSITIVE,
    "adam_epsilon": POSITIVE,
    "max_grad_norm": POSITIVE,
    "gamma": SHARE,
    "gae_lambda": SHARE,
    "clip": POSITIVE,
    "entropy_weight": Limit(0),
    "entropy_decay": Limit(0),
    "value_weight": Limit(0),
    "reward_scale": POSITIVE,
}
LOOP_LIMITS = {
    "num_envs": AT_LEAST_ONE,
    "rollout_steps": AT_LEAST_ONE,
    "epochs": AT_LEAST_ONE,
    "minibatch_size": AT_LEAST_ONE,
    "rollouts_per_call": AT_LEAST_ONE,
}
GROUPS = {"agent": ppo_glam.Config, "loop": on_policy.Config}


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    agent_config = border.typed(config.agent, ppo_glam.Config, AGENT_LIMITS, "agent")
    loop_config = border.typed(config.loop, on_policy.Config, LOOP_LIMITS, "loop")
    task = playground.make_task(config)

    def make_method(parallel: devices.Parallel) -> run.Method:
        try:
            on_policy.check(loop_config, parallel.sharers)
        except ValueError as fault:
            raise border.ConfigError(f"config.loop: {fault}") from fault
        agent = ppo_glam.make(
            task.networks, task.read, agent_config, parallel.axis_name
        )
        parts = on_policy.Parts(
            task.env, agent, agent_config, loop_config,
            parallel.num_devices, parallel.axis_name,
        )  # fmt: skip
        rollout = loop_config.num_envs * loop_config.rollout_steps
        minibatches = rollout // loop_config.minibatch_size
        return run.Method(
            agent=agent,
            program=on_policy.make(parts),
            init_local=lambda key, index: on_policy.init_local(parts, key, index),
            redistribute=on_policy.redistribute,
            steps_per_call=loop_config.rollouts_per_call * rollout,
            updates_per_call=loop_config.rollouts_per_call
            * loop_config.epochs
            * minibatches,
        )

    run.train(config, workdir, task, make_method)


if __name__ == "__main__":
    border.run(main, __doc__, GROUPS)
