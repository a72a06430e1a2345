"""SAC-GLAM with hindsight on Playground-Text.

    python -m experiments.sac_glam \
        --config=experiments/configs/sac_glam.py:quickstart --workdir=runs/a

Scales: `:smoke` (seconds), `:quickstart` (four minutes on two cores), `:playground`
(single goals and sequences, 8 objects), `:paper` (hyperparameters of the authors' own
later code, the nearest to the paper's that is public), `:smollm2` (adapters beside
SmolLM2-135M-Instruct), `:flan_t5` (a T5 from --config.model.path).
"""

from ml_collections import config_dict

from experiments.configs import playground


def get_config(scale: str = "quickstart") -> config_dict.ConfigDict:
    """Settings of a run; `scale` is what follows the colon of --config."""
    config = playground.shared(scale)

    # Every key is a field of rljax.agents.sac_glam.Config, but the first.
    config.critic_error = "sigmoid_cross_entropy"  # or squared_error
    config.allow_entropy_trap = False  # go on though staying alive may pay more
    config.agent = config_dict.ConfigDict()
    config.agent.learning_rate = 1e-3
    config.agent.max_grad_norm = 1.0
    config.agent.alpha = 0.03  # success is worth 1
    config.agent.alpha_target_ratio = 0.0  # above 0: alpha holds this share of log |A|
    config.agent.alpha_learning_rate = 1e-3
    config.agent.alpha_decay = 0.0  # fall of log alpha per update
    config.agent.entropy_in_target = 0.0
    config.agent.target_step = 0.01
    config.agent.policy_from_target = True  # saves a forward of five
    config.agent.shared_trunk = True
    config.agent.warmup_updates = 0
    # Both losses meet in one trunk and one Adam. At 1 the actor, sure of itself long
    # before the critic knows anything, takes most of each step.
    config.agent.actor_weight = 0.2
    config.agent.reward_scale = 1.0
    config.agent.kl_weight = 0.0

    # Every key is a field of rljax.training.off_policy.Config.
    config.loop = config_dict.ConfigDict()
    config.loop.num_envs = 64
    config.loop.steps_per_iteration = 1
    config.loop.updates_per_iteration = 4
    config.loop.iterations_per_call = 8  # a call should last two seconds at most
    config.loop.batch_size = 64
    config.loop.capacity = 131_072
    config.loop.relabelled_capacity = 131_072
    config.loop.min_size = 1_024
    config.loop.random_steps = 2_048
    config.loop.n_step = 3
    config.loop.gamma = 0.9
    config.loop.her_ratio = 0.5

    config.hindsight = config_dict.ConfigDict()
    config.hindsight.strategy = "achieved"  # final, future, episode, random
    config.hindsight.choice = "uniform_by_kind"  # uniform, inverse_frequency
    config.hindsight.her_k = 4  # goals an episode is relabelled with

    if scale == "smoke":
        config.loop.num_envs = 8
        config.loop.batch_size = 8
        config.loop.updates_per_iteration = 1
        config.loop.iterations_per_call = 8
        config.loop.capacity = 512
        config.loop.relabelled_capacity = 512
        config.loop.min_size = 16
        config.loop.random_steps = 64
    if scale in ("playground", "paper"):
        config.loop.capacity = 524_288
        config.loop.relabelled_capacity = 524_288
    if scale == "playground":
        # Sequences are long, so their commands differ little in Q: 0.03 at the start,
        # to explore, a tenth of it after 64,000 steps.
        config.agent.alpha_decay = 6e-4
    if scale == "paper":
        config.model.size = "small"
        config.model.head_width = 1_024
        config.critic_error = "squared_error"
        config.model.read_q = "last_node"
        config.agent.learning_rate = 1e-4
        config.agent.max_grad_norm = None
        config.agent.alpha = 0.05  # exp(-3), annealed as there
        # At the first alpha never succeeding is worth more than success: their setting.
        config.allow_entropy_trap = True
        config.agent.alpha_decay = 1e-3
        config.agent.entropy_in_target = 1.0
        config.agent.target_step = 0.005
        config.agent.policy_from_target = False
        config.agent.warmup_updates = 10
        config.agent.actor_weight = 1.0
        config.loop.num_envs = 32
        config.loop.steps_per_iteration = 2
        config.loop.updates_per_iteration = 1
        config.loop.batch_size = 256
        config.loop.capacity = 500_000
        config.loop.relabelled_capacity = 500_000
        config.loop.min_size = 256
        config.loop.random_steps = 0
        config.loop.gamma = 0.99
    if scale in ("smollm2", "flan_t5"):
        _language_model(config, scale)
    return config


def _language_model(config: config_dict.ConfigDict, scale: str) -> None:
    """Few environments and small batches: an update is dear."""
    # Of seven updates of SmolLM2 at 3e-4 the fifth left the policy no entropy.
    config.agent.learning_rate = 3e-5 if scale == "smollm2" else 3e-4
    # Adapters of policy, critic and slow copies beside one frozen base; or, in T5,
    # a trunk for each.
    config.agent.shared_trunk = False
    config.agent.actor_weight = 1.0
    config.agent.warmup_updates = 100  # a language model has something to lose
    config.loop.num_envs = 16
    config.loop.updates_per_iteration = 1
    config.loop.iterations_per_call = 1
    config.loop.batch_size = 16
    config.loop.min_size = 256
    config.loop.random_steps = 512
