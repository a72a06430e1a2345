"""Answers of a model to problems.

    python -m experiments.collect --config=experiments/configs/collect.py:arithmetic \
        --workdir=runs/log --config.model.path=runs/sft/hf

Scales: `:smoke`, `:arithmetic`, `:gsm8k`, and the paper's: `:qwen2.5_math_1.5b`,
`:deepseekmath_7b`, `:minicpm_2b`.
"""

from ml_collections import config_dict

from experiments.configs import offline


def get_config(scale: str = "arithmetic") -> config_dict.ConfigDict:
    """Settings of a collection; `scale` is what follows the colon of --config."""
    config = offline.asking(scale)
    config.split = "train"  # whose problems are asked; or dev, test
    config.problems = 0  # of the split; 0: all
    config.samples = 10  # answers to each
    config.temperature = 1.0
    config.chunk = 200  # problems between two writes
    config.source = ""  # what the log says of where its answers are from
    if scale == "smoke":
        config.samples = 2
    if scale in offline.PAPER:
        samples = {"deepseekmath_7b": 16, "minicpm_2b": 5}
        config.samples = samples.get(scale, 10)
    return config
