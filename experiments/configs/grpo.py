"""GRPO on problems with a verifier.

    python -m experiments.grpo --config=experiments/configs/grpo.py:arithmetic \
        --workdir=runs/grpo --config.model.path=runs/sft/hf

Scales: `:smoke` (seconds), `:arithmetic` (a decoder of 1.2 M parameters on two cores),
`:gsm8k` (a model and files that flags name).
"""

from ml_collections import config_dict

from experiments.configs import online


def get_config(scale: str = "arithmetic") -> config_dict.ConfigDict:
    """Settings of a run; `scale` is what follows the colon of --config."""
    config = online.shared(scale)
    config.grpo = online.grpo(scale)
    return config
