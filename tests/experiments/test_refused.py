"""Settings that cannot be, each refused with its key, its value and the limit."""

import pathlib

import jax.numpy as jnp
import pytest

from experiments import border, playground, ppo_glam, run, sac_glam
from experiments.configs import ppo_glam as ppo_configs
from experiments.configs import sac_glam as sac_configs
from rljax.text import tokenizer

ROOT = pathlib.Path(__file__).parents[2]
SCALES = ("smoke", "quickstart", "playground", "paper", "smollm2", "flan_t5")
MAINS = {"sac_glam": sac_glam, "ppo_glam": ppo_glam}


@pytest.fixture(scope="module")
def task():
    return playground.make_task(sac_configs.get_config("smoke"))


@pytest.fixture
def main(task, monkeypatch, tmp_path, capsys):
    """(method, flags) -> exit code, output, error; nothing is trained."""

    def train(config, folder, task, make_method):
        make_method(run.parallel_of(config))

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(playground, "make_task", lambda config: task)

    def call(method, *flags, scale="smoke"):
        spec = ROOT / "experiments" / "configs" / f"{method}.py"
        given = [f"--config={spec}:{scale}", f"--workdir={tmp_path}", *flags]
        monkeypatch.setattr("sys.argv", ["main", *given])
        with pytest.raises(SystemExit) as ended:
            border.run(MAINS[method].main, "Trains.", MAINS[method].GROUPS)
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", ["sac_glam", "ppo_glam"])
def test_no_scale_is_refused(main, method, scale):
    assert main(method, scale=scale)[::2] == (0, "")
    for way in ("pmap", "mesh"):
        assert main(method, f"--config.parallel={way}", scale=scale)[::2] == (0, "")


@pytest.mark.parametrize(
    "method, flag, message",
    [
        ("sac_glam", "agent.lr=1", "config.agent.lr is not a setting"),
        ("sac_glam", "loop.num_envs=x", "loop.num_envs is 'x': it must be of type int"),
        ("sac_glam", "loop.num_envs=0", "loop.num_envs is 0: it must be at least 1"),
        ("ppo_glam", "loop.num_envs=0", "loop.num_envs is 0: it must be at least 1"),
        (
            "sac_glam",
            "loop.her_ratio=1.5",
            "loop.her_ratio is 1.5: it must be in [0, 1]",
        ),
        (
            "sac_glam",
            "loop.batch_size=1024",
            "loop.batch_size is 1024: it must be at most loop.capacity, 512",
        ),
        (
            "sac_glam",
            "loop.min_size=600",
            "min_size is 600, more than the ring ever holds: capacity 512",
        ),
        (
            "sac_glam",
            "loop.n_step=19",
            "loop.n_step is 19: it must be at most env.limit, 17",
        ),
        (
            "sac_glam",
            "hindsight.strategy=best",
            "hindsight.strategy is 'best': it must be one of achieved, final",
        ),
        ("sac_glam", "hindsight.her_k=0", "hindsight.her_k is 0: it must be at least"),
        ("sac_glam", "critic_error=l1", "critic_error is 'l1': it must be one of"),
        ("sac_glam", "agent.entropy_in_target=2.0", "it must be in [0, 1]"),
        ("sac_glam", "agent.alpha_target_ratio=1.5", "it must be in [0, 1]"),
        ("sac_glam", "num_devices=4", "config.num_devices is 4: it must be 0 or 1"),
        ("sac_glam", "agent.reward_scale=2.0", "agent.reward_scale is 2.0: it must be"),
        ("sac_glam", "parallel=tpu", "config.parallel is 'tpu': it must be one of jit"),
        (
            "ppo_glam",
            "loop.minibatch_size=48",
            "minibatch_size is 48, which does not divide a rollout of 8 x 8 = 64",
        ),
        ("ppo_glam", "agent.gamma=2.0", "agent.gamma is 2.0: it must be in [0, 1]"),
        ("sac_glam", "seed=None", "config.seed is None: it must be of type int"),
        ("sac_glam", "lora.alpha=None", "lora.alpha is None: it must be of type float"),
        ("sac_glam", "env.sequences=None", "sequences is None: it must be of type"),
        ("sac_glam", "agent.alpha=None", "agent.alpha is None: it must be of type"),
    ],
)
def test_what_cannot_be_is_refused_by_name(main, method, flag, message):
    code, _, error = main(method, f"--config.{flag}")
    assert code == 2 and message in error
    assert error.startswith("error: ") and "Traceback" not in error


def test_what_may_be_none_may_be_none(main):
    flag = "--config.agent.max_grad_norm=None"
    assert main("sac_glam", flag)[::2] == (0, "")
    code, _, error = main("ppo_glam", flag)  # whose gradients are always clipped
    assert code == 2 and "max_grad_norm is None: it must be of type float" in error


def test_shares_that_do_not_come_out_are_refused(main):
    for way in ("pmap", "mesh"):
        flags = (f"--config.parallel={way}", "--config.loop.num_envs=12")
        code, _, error = main("sac_glam", *flags)
        assert code == 2
        assert "num_envs is 12, which 8 devices cannot share evenly" in error
    code, _, error = main(
        "sac_glam", "--config.parallel=pmap", "--config.num_devices=9"
    )
    assert code == 2 and "config.num_devices: pmap over 9 devices, but 8" in error


def test_a_setting_without_effect_is_refused(main):
    flags = ["--config.agent.alpha_decay=0.1", "--config.agent.alpha_target_ratio=0.5"]
    code, _, error = main("sac_glam", *flags)
    assert code == 2
    assert "config.agent.alpha_decay is 0.1: it must be 0 where" in error
    code, _, error = main(
        "sac_glam", "--config.loop.her_ratio=0.0", "--config.hindsight.choice=any"
    )
    assert code == 2 and "config.hindsight.choice is 'any'" in error


@pytest.mark.parametrize(
    "key, value, limit",
    [
        ("total_env_steps", 0, "at least 1"),
        ("eval.every_env_steps", 0, "at least 1"),
        ("eval.scenes", 0, "at least 1"),
        ("seed", -1, "in [0, 4294967295]"),
        ("seed", 99999999999999999999, "in [0, 4294967295]"),
        ("eval.seed", 2**32, "in [0, 4294967295]"),
        ("log.keep_checkpoints", 0, "at least 1"),
        ("env.history", -1, "at least 0"),
        ("model.head_std", 0.0, "above 0"),
        ("eval.scenes", None, "at least 1"),
    ],
)
@pytest.mark.parametrize("configs", [sac_configs, ppo_configs])
def test_shared_settings_are_within_their_limits(configs, key, value, limit):
    config = configs.get_config("smoke")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(border.ConfigError) as raised:
        playground.make_task(config)
    assert str(raised.value) == f"config.{key} is {value!r}: it must be {limit}"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("configs", [sac_configs, ppo_configs])
def test_shared_settings_of_every_scale_are_within_their_limits(configs, scale):
    flat = border.keys(configs.get_config(scale))
    for key, limit in playground.SHARED_LIMITS.items():
        assert limit.holds(flat[key]), key


def test_limits_of_shared_settings_name_settings_there_are():
    known = border.keys(ppo_configs.get_config("smoke"))
    assert playground.SHARED_LIMITS.keys() <= known.keys()


def test_a_tokenizer_that_will_not_do_is_refused(tmp_path):
    config = sac_configs.get_config("smoke")
    config.model.tokenizer = str(tmp_path)
    with pytest.raises(border.ConfigError, match="config.model.tokenizer: .* holds no"):
        playground.make_task(config)
    tokenizer.word_level(["Goal:", "cat"]).save_pretrained(tmp_path)
    with pytest.raises(border.ConfigError, match="config.model.tokenizer: .* does not"):
        playground.make_task(config)


def test_a_filter_that_leaves_no_command_is_told_at_the_start():
    with pytest.raises(border.ConfigError, match="no command is left of 9") as raised:
        playground.make_task(
            sac_configs.get_config("smoke"), lambda obs: jnp.zeros(9, bool)
        )
    assert "You see:" in str(raised.value)


def test_an_unknown_scale_is_refused(main):
    code, _, error = main("sac_glam", scale="huge")
    assert code == 2
    assert (
        "one of smoke, quickstart, playground, paper, smollm2, flan_t5, got 'huge'"
        in error
    )


def test_a_target_that_pays_for_never_succeeding_is_refused(main):
    # Nine commands for ever: 0.05 ln 9 / (1 - 0.99) = 11.0, success is worth 1.
    trap = [
        "--config.critic_error=squared_error",
        "--config.agent.entropy_in_target=1.0",
        "--config.agent.alpha=0.05",
        "--config.loop.gamma=0.99",
    ]
    code, said, error = main("sac_glam", *trap)
    assert code == 2
    assert "worth of never succeeding: at most 11 " in said
    assert "worth of success: 1" in said
    assert "agent.entropy_in_target is 1.0" in error
    assert "--config.allow_entropy_trap=True" in error
    code, said, error = main("sac_glam", *trap, "--config.allow_entropy_trap=True")
    assert code == 0 and not error
    assert "worth of never succeeding: at most 11 " in said
    # Worth 0.99 of the success is not refused.
    code, _, error = main("sac_glam", *trap, "--config.agent.alpha=0.0045")
    assert code == 0, error
