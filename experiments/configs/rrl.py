"""Retrospective replay on top of PPO or GRPO.

    python -m experiments.rrl --config=experiments/configs/rrl.py:arithmetic \
        --workdir=runs/rrl --config.model.path=runs/sft/hf

Scales: `:smoke` (seconds), `:arithmetic` and `:countdown` (a decoder of 1.2 M
parameters on two cores), `:gsm8k` (a model and files that flags name), `:rrl_paper`
(the same, with what is known of the settings of retrospective replay's authors).
"""

from ml_collections import config_dict

from experiments.configs import online


def get_config(scale: str = "arithmetic") -> config_dict.ConfigDict:
    """Settings of a run; `scale` is what follows the colon of --config."""
    config = online.shared(scale)
    config.base = "ppo"  # grpo
    config.ppo = online.ppo(scale)
    config.grpo = online.grpo(scale)
    config.replay = online.replay(scale)
    return config
