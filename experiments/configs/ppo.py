"""PPO on problems with a verifier.

    python -m experiments.ppo --config=experiments/configs/ppo.py:arithmetic \
        --workdir=runs/ppo --config.model.path=runs/sft/hf

Scales: `:smoke` (seconds), `:arithmetic` and `:countdown` (a decoder of 1.2 M
parameters on two cores), `:gsm8k` (a model and files that flags name), `:rrl_paper`
(the same, with what is known of the settings of retrospective replay's authors).
"""

from ml_collections import config_dict

from experiments.configs import online


def get_config(scale: str = "arithmetic") -> config_dict.ConfigDict:
    """Settings of a run; `scale` is what follows the colon of --config."""
    config = online.shared(scale)
    config.ppo = online.ppo(scale)
    return config
