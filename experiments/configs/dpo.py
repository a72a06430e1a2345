"""Direct preference optimisation on the pairs of a log.

    python -m experiments.dpo \
        --config=experiments/configs/dpo.py:arithmetic --workdir=runs/dpo \
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

    config.beta = 0.1
    config.pairs_per_task = 6
    config.optimizer.learning_rate = 2e-5
    if scale == "gsm8k" or scale in offline.PAPER:
        config.optimizer.learning_rate = 5e-7
        pairs = {"deepseekmath_7b": 10, "minicpm_2b": 5}
        config.pairs_per_task = pairs.get(scale, 6)
    return config
