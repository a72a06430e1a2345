"""Kahneman-Tversky optimisation on a log.

    python -m experiments.kto \
        --config=experiments/configs/kto.py:arithmetic --workdir=runs/kto \
        --config.model.path=runs/sft/hf --config.data.path=runs/log.jsonl.gz

Scales: `:smoke` (seconds), `:arithmetic` (a decoder of 1.2 M parameters on two cores),
`:gsm8k` (a model and files that flags name), and the paper's: `:qwen2.5_math_1.5b`,
`:deepseekmath_7b`.
"""

from ml_collections import config_dict

from experiments.configs import offline

SCALES = [scale for scale in offline.SCALES if scale != "minicpm_2b"]  # has no KTO


def get_config(scale: str = "arithmetic") -> config_dict.ConfigDict:
    """Settings of a run; `scale` is what follows the colon of --config."""
    config = offline.shared(scale, SCALES)

    config.beta = 0.1
    config.good_weight = 1.0
    config.bad_weight = 1.0
    config.optimizer.learning_rate = 2e-5
    if scale == "gsm8k" or scale in offline.PAPER:
        config.optimizer.learning_rate = 5e-8
    if scale == "deepseekmath_7b":
        config.optimizer.learning_rate = 1e-7
        config.data.epochs = 2
    return config
