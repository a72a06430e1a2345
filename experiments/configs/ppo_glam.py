"""PPO-GLAM on Playground-Text, the on-policy baseline.

    python -m experiments.ppo_glam \
        --config=experiments/configs/ppo_glam.py:playground --workdir=runs/p

Scales as in `sac_glam.py`; world, model, prompt and evaluation are the same.
"""

from ml_collections import config_dict

from experiments.configs import playground


def get_config(scale: str = "quickstart") -> config_dict.ConfigDict:
    """Settings of a run; `scale` is what follows the colon of --config."""
    config = playground.shared(scale)

    # Every key is a field of rljax.agents.ppo_glam.Config.
    config.agent = config_dict.ConfigDict()
    config.agent.learning_rate = 1e-3
    config.agent.adam_epsilon = 1e-8
    config.agent.max_grad_norm = 0.5
    config.agent.gamma = 0.9
    config.agent.gae_lambda = 0.95
    config.agent.clip = 0.2
    # The first policy is all but sure of itself; 0.01 lets it stay so for long.
    config.agent.entropy_weight = 0.1
    config.agent.entropy_decay = 0.0  # fall of log entropy_weight per update
    config.agent.value_weight = 0.5
    config.agent.reward_scale = 1.0
    config.agent.normalise_advantages = True

    # Every key is a field of rljax.training.on_policy.Config.
    config.loop = config_dict.ConfigDict()
    config.loop.num_envs = 64
    config.loop.rollout_steps = 16
    config.loop.epochs = 4
    config.loop.minibatch_size = 256
    config.loop.rollouts_per_call = 1

    if scale == "smoke":
        config.loop.num_envs = 8
        config.loop.rollout_steps = 8
        config.loop.minibatch_size = 32
    if scale == "playground":
        # Held at 0.1 the policy stays too random for sequences; a twentieth of it
        # after 64,000 steps.
        config.agent.entropy_decay = 3e-3
    if scale == "paper":
        config.model.size = "small"
        config.model.head_width = 1_024
        config.agent.learning_rate = 1e-6  # theirs, for a pretrained model
        config.agent.adam_epsilon = 1e-5
        config.agent.gamma = 0.99
        config.agent.entropy_weight = 0.01
        config.agent.gae_lambda = 0.99
        config.agent.reward_scale = 20.0
        config.agent.normalise_advantages = False
        config.loop.num_envs = 32
        config.loop.rollout_steps = 40
        config.loop.minibatch_size = 64
    if scale in ("smollm2", "flan_t5"):
        config.agent.learning_rate = 3e-4
        config.agent.entropy_weight = 0.01
        config.loop.num_envs = 16
        config.loop.minibatch_size = 16
    return config
