"""Answers searched for with the V that an OREO run learnt.

    python -m experiments.search --config=experiments/configs/search.py:arithmetic \
        --workdir=runs/search --config.model.path=runs/oreo/hf

Scales: `:smoke`, `:arithmetic`, `:gsm8k`, and the paper's: `:qwen2.5_math_1.5b`,
`:deepseekmath_7b`, `:minicpm_2b`.
"""

from ml_collections import config_dict

from experiments.configs import offline


def get_config(scale: str = "arithmetic") -> config_dict.ConfigDict:
    """Settings of a search; `scale` is what follows the colon of --config."""
    config = offline.asking(scale)
    config.eval.split = "test"  # or dev
    config.eval.problems = 0  # of the split; 0: all
    config.critic = config_dict.ConfigDict()
    # A folder with V, where it is not that of the policy. V knows the answers that it
    # learnt from: a log's V guides best the policy that wrote the log.
    config.critic.path = ""
    config.beams = (3, 5, 7)  # B of each search; K is B too
    config.rounds = 20  # steps of an answer, at most
    config.data = config_dict.ConfigDict()
    config.data.delimiters = ()  # that end a step: as in the run that learnt V
    config.temperature = 1.0  # of all but greedy
    # Where V of a step is read: at_end; where_steps_begin, for V of steps; one_early,
    # as in the reference code. Empty: where the run learnt it.
    config.reading = ""
    config.rows = 512  # candidates of a round, over all problems: memory
    config.most_samples = 256  # of a problem, for best of N and majority
    if scale == "smoke":
        config.beams = (2, 3)
        config.rows = 64
        config.most_samples = 16
    return config
