"""The paper's settings, out of its tables and scripts, method by method."""

import importlib
import pathlib

import pytest

from experiments import border, oreo
from experiments.configs import offline

QWEN, DEEPSEEK, MINICPM = "qwen2.5_math_1.5b", "deepseekmath_7b", "minicpm_2b"
LEARNT = [  # method, scale, learning rate, epochs, tokens of a row
    # The paper's rows of 2048 cut off what 512 + 2048 tokens have more.
    ("sft", QWEN, 2e-5, 3, 8192),
    ("sft", MINICPM, 2e-5, 2, 8192),
    ("rejection_sampling", QWEN, 5e-6, 1, 2560),
    ("rejection_sampling", DEEPSEEK, 5e-6, 1, 2560),
    ("rejection_sampling", MINICPM, 2e-5, 1, 4096),
    ("dpo", QWEN, 5e-7, 1, 2560),
    ("dpo", DEEPSEEK, 5e-7, 1, 2560),
    ("dpo", MINICPM, 5e-7, 1, 4096),
    ("kto", QWEN, 5e-8, 1, 2560),
    ("kto", DEEPSEEK, 1e-7, 2, 2560),
    ("oreo", QWEN, 5e-6, 1, 2560),
    ("oreo", DEEPSEEK, 5e-6, 2, 2560),
    ("oreo", MINICPM, 5e-6, 3, 4096),
]


def config_of(method, scale):
    module = importlib.import_module(f"experiments.configs.{method}")
    return module.get_config(scale)


@pytest.mark.parametrize(("method", "scale", "rate", "epochs", "row"), LEARNT)
def test_what_is_learnt_with(method, scale, rate, epochs, row):
    config = config_of(method, scale)
    optimizer, data = config.optimizer, config.data
    assert (optimizer.learning_rate, data.epochs, data.row_tokens) == (
        rate, epochs, row,
    )  # fmt: skip
    assert data.batch_size == 128
    assert (optimizer.b1, optimizer.b2, optimizer.epsilon) == (0.9, 0.95, 1e-8)
    assert (optimizer.weight_decay, optimizer.max_grad_norm) == (0, 1.0)
    assert (optimizer.warmup, optimizer.wait) == (0.03, 0)
    assert (config.model.dtype, config.model.param_dtype) == ("bfloat16", "bfloat16")
    assert config.eval.max_tokens == 2048 and config.model.remat


@pytest.mark.parametrize("scale", offline.SCALES)
def test_what_a_collection_writes_fits_a_row(scale):
    asked = config_of("collect", scale).eval
    for method in ("sft", "rejection_sampling", "dpo", "kto", "oreo", "iterate"):
        module = importlib.import_module(f"experiments.configs.{method}")
        if scale not in getattr(module, "SCALES", offline.SCALES):
            continue
        config = module.get_config(scale)
        whole = method == "iterate"
        for one in [config[name] for name in module.METHODS] if whole else [config]:
            longest = asked.prompt_tokens + asked.max_tokens
            assert one.data.row_tokens >= longest, (method, scale)


def test_what_methods_have_of_their_own():
    for scale, pairs, samples in ((QWEN, 6, 10), (DEEPSEEK, 10, 16), (MINICPM, 5, 5)):
        dpo, oreo = config_of("dpo", scale), config_of("oreo", scale)
        assert (dpo.beta, dpo.pairs_per_task) == (0.1, pairs)
        collect, search = config_of("collect", scale), config_of("search", scale)
        assert (collect.samples, collect.temperature) == (samples, 1.0)
        assert collect.eval.max_tokens == search.eval.max_tokens == 2048
        assert (search.beams, search.rounds) == ((3, 5, 7), 20)
        assert (oreo.beta, oreo.level) == (0.03, "token")
        critic = oreo.critic
        adapter = scale == DEEPSEEK
        assert oreo.value == ("adapter" if adapter else "own_trunk")
        assert critic.learning_rate == (1e-4 if adapter else 5e-6)
        assert (critic.lora_rank, critic.lora_alpha) == (64, 64)


WEIGHTS = [("token", 0.01), ("step", 0.1), ("response", 0.3)]


@pytest.mark.parametrize(("level", "weight"), WEIGHTS)
def test_the_weight_of_the_divergence_goes_with_the_level(level, weight, monkeypatch):
    def settings(scale, *more):
        spec = pathlib.Path(offline.__file__).with_name("oreo.py")
        words = [f"--config={spec}:{scale}", "--workdir=x"]
        words.append(f"--config.level={level}")
        return border.read_command([*words, *more]).config

    learnt = []

    def train_on_log(config, workdir, method):
        learnt.append(config.kl_weight)

    monkeypatch.setattr(oreo.offline, "train_on_log", train_on_log)
    for scale in offline.PAPER:
        oreo.main(settings(scale), "x")
        for given in ("0.02", "0"):
            oreo.main(settings(scale, f"--config.kl_weight={given}"), "x")
        for wrong in ("much", "-1", "nan"):
            with pytest.raises(border.ConfigError, match="config.kl_weight is .*None"):
                oreo.main(settings(scale, f"--config.kl_weight={wrong}"), "x")
    assert learnt == [weight, 0.02, 0] * len(offline.PAPER)
    # Elsewhere it is what the results were measured with.
    oreo.main(settings("arithmetic"), "x")
    assert learnt[-1] == 0.01


@pytest.mark.parametrize("method", ["ppo", "grpo", "rrl"])
def test_what_is_known_of_retrospective_replay(method):
    """Of its authors' public code and sibling papers; the paper prints none of it."""
    config = config_of(method, "rrl_paper")
    rollout, loss, optimizer = config.rollout, config.loss, config.optimizer
    assert (rollout.steps, rollout.samples) == (1000, 16)
    assert (rollout.prompt_tokens, rollout.max_tokens) == (1024, 1024)
    assert (loss.epochs, loss.low, loss.high) == (1, 0.2, 0.2)
    assert (optimizer.learning_rate, optimizer.warmup) == (1e-6, 50 / 1000)
    assert (optimizer.b1, optimizer.b2, optimizer.epsilon) == (0.9, 0.95, 1e-6)
    assert (optimizer.weight_decay, optimizer.max_grad_norm) == (0, 1.0)
    assert (config.model.dtype, config.model.param_dtype) == ("bfloat16", "bfloat16")
    # Problems are those of a file, and an evaluation comes every 50 steps.
    assert config.task.name == "gsm8k" and config.task.train == ""
    assert config.eval.every_updates == 50 * rollout.groups // loss.batch_groups
    assert config.eval.max_tokens == 1024
    # The divergence from the reference counts once: in the reward, or in the loss.
    assert loss.kl_weight == (0.05 if method == "grpo" else 0)
    if method != "grpo":
        ppo = config.ppo
        assert (ppo.gamma, ppo.lambda_, ppo.beta) == (1, 0.95, 0.05)
        assert ppo.learning_rate == pytest.approx(3 * optimizer.learning_rate)
        assert (ppo.epsilon, ppo.value_clip) == (1e-8, 0.2)


def test_what_replay_has_of_its_own():
    replay = config_of("rrl", "rrl_paper").replay
    assert (replay.cells, replay.share, replay.most) == (10, 0.25, 0.5)
    assert (replay.where, replay.score, replay.choice) == ("", "", "difficulty")


@pytest.mark.parametrize(
    "method, scale",
    [("sft", DEEPSEEK), ("kto", MINICPM), ("sft", "rrl_paper"), ("ppo", QWEN)],
)
def test_what_the_paper_has_not_is_refused(method, scale):
    with pytest.raises(ValueError, match=f"scale is one of smoke, .*got '{scale}'"):
        config_of(method, scale)
