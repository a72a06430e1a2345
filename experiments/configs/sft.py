"""Supervised fine-tuning on written solutions, or on a log.

    python -m experiments.sft \
        --config=experiments/configs/sft.py:arithmetic --workdir=runs/sft

Scales: `:smoke` (seconds), `:arithmetic` and `:countdown` (a decoder of 1.2 M
parameters from random weights, on two cores), `:gsm8k` (a model and files that flags
name), and the paper's: `:qwen2.5_math_1.5b`, `:minicpm_2b`.
"""

from ml_collections import config_dict

from experiments.configs import offline

# The paper takes the 7B as it is.
SCALES = [
    *(scale for scale in offline.SCALES if scale != "deepseekmath_7b"),
    offline.COUNTDOWN,
]


def get_config(scale: str = "arithmetic") -> config_dict.ConfigDict:
    """Settings of a run; `scale` is what follows the colon of --config."""
    config = offline.shared(scale, SCALES)
    config.optimizer.learning_rate = 2e-3
    config.data.batch_size = 64
    config.data.epochs = 8  # then it answers half of the problems rightly
    if scale == "smoke":
        config.data.batch_size = 16
        config.data.epochs = 2
    if scale == "gsm8k" or scale in offline.PAPER:
        config.optimizer.learning_rate = 2e-5
        config.data.batch_size = 128
        config.data.epochs = 2 if scale == "minicpm_2b" else 3
    if scale in offline.PAPER:
        config.data.row_tokens = 8_192
    return config
