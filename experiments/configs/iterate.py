"""Rounds of collecting with the present policy and learning from what was collected.

    python -m experiments.iterate --config=experiments/configs/iterate.py:arithmetic \
        --workdir=runs/iterate --config.model.path=runs/sft/hf

Scales: `:smoke` (seconds), `:arithmetic` (a decoder of 1.2 M parameters on two cores),
`:gsm8k` (a model and files that flags name).
"""

from ml_collections import config_dict

from experiments.configs import collect, dpo, kto, offline, oreo, rejection_sampling

SCALES = ("smoke", "arithmetic", "gsm8k")
METHODS = {
    "oreo": oreo,
    "rejection_sampling": rejection_sampling,
    "dpo": dpo,
    "kto": kto,
}
# Groups that collection and method have in common; all else of each is its own.
SHARED = ("parallel", "num_devices", "model", "lora", "task", "eval", "log")


def get_config(scale: str = "arithmetic") -> config_dict.ConfigDict:
    """Settings of an iteration; `scale` is what follows the colon of --config."""
    if scale not in SCALES:
        raise ValueError(f"scale is one of {', '.join(SCALES)}, got {scale!r}")
    shared = offline.shared(scale)
    config = config_dict.ConfigDict({key: shared[key] for key in SHARED})
    del config.model.policy  # model.path is the policy of the start
    config.seed = 0

    config.method = "oreo"  # rejection_sampling, dpo, kto
    config.rounds = 3
    # The paper does not say. With these a round is what it says of one training, with
    # the present policy where the SFT model was.
    config.reference = "last"  # each round's start; first: the start of all rounds
    config.critic = "fresh"  # a copy of the reference; carried: V of the round before
    config.old_data = False  # learn from the logs of earlier rounds, too
    # A log of answers of model.path, or several with commas, in place of round 1's.
    config.first_log = ""

    config.collect = collect.get_config(scale)
    for key in [key for key in config.collect if key in shared]:
        del config.collect[key]  # `source`, where it is empty, becomes the round
    for name, method in METHODS.items():
        config[name] = method.get_config(scale)
        for key in (*SHARED, "seed", "resume"):
            del config[name][key]
        del config[name].data.path
    del config.oreo.critic.path
    return config
