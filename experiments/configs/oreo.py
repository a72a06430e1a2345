"""OREO: policy and value learnt together from a log.

    python -m experiments.oreo \
        --config=experiments/configs/oreo.py:arithmetic --workdir=runs/oreo \
        --config.model.path=runs/sft/hf --config.data.path=runs/log.jsonl.gz

Scales: `:smoke` (seconds), `:arithmetic` (a decoder of 1.2 M parameters on two cores),
`:gsm8k` (a model and files that flags name), and the paper's: `:qwen2.5_math_1.5b`,
`:deepseekmath_7b`, `:minicpm_2b`.
"""

from ml_collections import config_dict

from experiments.configs import offline


def get_config(scale: str = "arithmetic") -> config_dict.ConfigDict:
    """Settings of a run; `scale` is what follows the colon of --config."""
    config = offline.shared(scale)

    config.level = "token"  # step, response: what an action of the policy's loss is
    config.actor_loss = "own_action"  # full_gradient (as in DQO), one_step
    config.value = "own_trunk"  # shared_trunk, adapter
    config.beta = 0.03
    # The paper's is 0.01 for tokens, 0.1 for steps, 0.3 for responses. At its scales it
    # is None: that of the level.
    config.kl_weight = 0.01
    config.optimizer.learning_rate = 1e-4
    config.critic = config_dict.ConfigDict()
    # hf/ of an earlier OREO workdir, whose V, trunk and head, is learnt on; empty: a
    # copy of the reference and a head of zeros.
    config.critic.path = ""
    config.critic.learning_rate = 1e-4
    config.critic.lora_rank = 64  # of value=adapter
    config.critic.lora_alpha = 64.0
    if scale == "gsm8k":
        config.optimizer.learning_rate = config.critic.learning_rate = 5e-6
    if scale in offline.PAPER:
        offline.as_in_paper(config, scale)
    return config
