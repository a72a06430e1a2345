"""The border: command lines and configs become typed settings or helpful errors."""

import dataclasses
from typing import Literal

import pytest
from ml_collections import config_dict

from experiments import border
from experiments.border import ConfigError, Limit

CONFIG_FILE = """
from ml_collections import config_dict

def get_config(scale="full"):
    if scale not in ("full", "smoke"):
        raise ValueError(f"scale is 'full' or 'smoke', got {scale!r}")
    config = config_dict.ConfigDict()
    config.seed = 0
    config.resume = "auto"
    config.clip = config_dict.placeholder(float)
    config.agent = config_dict.ConfigDict()
    config.agent.learning_rate = 1e-3
    config.agent.widths = (64, 64)
    config.agent.tied = True
    config.steps = 10 if scale == "smoke" else 1000
    return config
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ring:
    capacity: int
    her_ratio: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    learning_rate: float
    ring: Ring = Ring(capacity=1)
    widths: tuple[int, ...] = (8,)
    error: Literal["squared", "cross_entropy"] = "squared"
    clip: float | None = None
    tied: bool = True


LIMITS = {
    "learning_rate": border.POSITIVE,
    "ring.capacity": border.AT_LEAST_ONE,
    "ring.her_ratio": border.SHARE,
    "widths": Limit(1, 512),
}


def settings(**changes) -> Settings:
    config = config_dict.ConfigDict({"learning_rate": 1e-3, **changes})
    return border.typed(config, Settings, LIMITS, prefix="agent")


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG_FILE)
    return path


def read(config_file, *words):
    return border.read_command([f"--config={config_file}:smoke", *words])


def test_builds_nested_settings():
    built = settings(ring={"capacity": 3}, widths=[2, 3], clip=1, tied=False)
    assert built == Settings(
        learning_rate=1e-3, ring=Ring(capacity=3), widths=(2, 3), clip=1.0, tied=False
    )
    assert type(built.clip) is float
    assert settings(clip=None).clip is None


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"lerning_rate": 1.0},
            "agent.lerning_rate .* mean config.agent.learning_rate",
        ),
        ({"zzz": 1}, "config.agent.zzz is not a setting; known: agent.learning_rate"),
        (
            {"ring": {"capacity": 2, "her": 1.0}},
            "agent.ring.her is .* config.agent.ring.her_ratio",
        ),
        (
            {"learning_rate": "fast"},
            "learning_rate is 'fast': it must be of type float",
        ),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan: it must be above 0"),
        ({"ring": {"capacity": 0}}, "ring.capacity is 0: it must be at least 1"),
        ({"ring": {"capacity": True}}, "ring.capacity is True: it must be of type int"),
        ({"ring": {"capacity": 2.0}}, "ring.capacity is 2.0: it must be of type int"),
        (
            {"ring": {"capacity": 1, "her_ratio": 1.5}},
            r"her_ratio is 1.5: .* in \[0, 1\]",
        ),
        ({"ring": {}}, "config.agent.ring.capacity is missing"),
        ({"ring": 3}, "config.agent.ring is 3: it must be keys"),
        ({"widths": (4, 600)}, r"widths is \(4, 600\): it must be in \[1, 512\]"),
        ({"widths": 4}, "widths is 4: it must be a tuple"),
        ({"error": "huber"}, r"error is 'huber': .* \['squared', 'cross_entropy'\]"),
        ({"tied": 1}, "tied is 1: it must be of type bool"),
    ],
)
def test_names_key_value_and_limit(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_names_a_missing_key():
    with pytest.raises(ConfigError, match="config.learning_rate is missing"):
        border.typed({}, Settings)


def test_numbers_of_a_config_are_held_to_their_limits():
    config = config_dict.ConfigDict({"data": {"epochs": 1}})
    border.limits(config, {"data.epochs": border.AT_LEAST_ONE})
    with pytest.raises(ConfigError, match="config.data.epochs is 1: it must be at l"):
        border.limits(config, {"data.epochs": Limit(2)})
    for key in ("data.flip", "eval.batch"):
        with pytest.raises(ConfigError, match=f"^config.{key} is missing"):
            border.limits(config, {key: border.SHARE})


def test_values_allowed_by_name():
    with pytest.raises(
        ConfigError, match=r"clip is 3.0: it must be one of \[1.0, 2.0\]"
    ):
        border.typed(
            {"learning_rate": 1.0, "clip": 3.0}, Settings, {"clip": (1.0, 2.0)}
        )


def test_require_tells_what_two_keys_must_obey():
    border.require(True, "batch_size", 8, "at most replay.capacity, 4")
    with pytest.raises(ConfigError, match="config.batch_size is 8: it must be at most"):
        border.require(False, "batch_size", 8, "at most replay.capacity, 4")


def test_reads_a_command_line(config_file):
    command = read(
        config_file,
        "--workdir=runs/a",
        "--config.seed",
        "3",
        "--config.agent.widths=4,5",
        "--config.agent.tied=false",
        "--config.agent.learning_rate=1",
        "--config.clip=2",
        "--config.steps=1e6",
        "--config.resume=120",
    )
    assert command.workdir == "runs/a" and not command.wants_help
    assert border.keys(command.config) == {
        "seed": 3,
        "resume": "120",
        "clip": 2.0,
        "agent.learning_rate": 1.0,
        "agent.widths": (4, 5),
        "agent.tied": False,
        "steps": 1_000_000,
    }


def test_the_scale_reaches_the_config(config_file):
    assert read(config_file).config.steps == 10
    assert border.load_config(str(config_file)).steps == 1000


@pytest.mark.parametrize(
    "word, message",
    [
        ("--config.agent.lerning_rate=1", "mean config.agent.learning_rate?"),
        ("--config.agent.seed=1", "did you mean config.seed?"),
        ("--config.seed=x", "config.seed is 'x': it must be of type int"),
        ("--config.seed=1.5", "config.seed is 1.5: it must be of type int"),
        ("--config.agent.tied=maybe", "agent.tied is 'maybe': it must be of type bool"),
        ("--config.agent=3", "config.agent is a group; set config.agent.learning_rate"),
        ("--config.seed", "--config.seed has no value: write --config.seed=value"),
        ("--confg=3", "'--confg=3' is not a flag"),
        ("stray", "'stray' is not a flag"),
        ("--config=none.py", "--config=none.py: there is no file none.py"),
        ("--config.seed=None", "config.seed is None: it must be of type int"),
        ("--config.agent.tied=None", "agent.tied is None: it must be of type bool"),
        ("--config.agent.tied=none", "agent.tied is None: it must be of type bool"),
        ("--config.agent.widths=None", "widths is None: it must be of type tuple"),
        ("--config.agent.learning_rate=None", "rate is None: it must be of type float"),
    ],
)
def test_rejects_a_command_line(config_file, word, message):
    with pytest.raises(ConfigError) as raised:
        read(config_file, word)
    assert message in str(raised.value)


def test_none_where_the_type_allows_it(config_file):
    """Where the file says None, or the dataclass that the group becomes."""
    assert read(config_file, "--config.clip=None").config.clip is None
    config_file.write_text(
        CONFIG_FILE.replace("config.agent.tied", "config.agent.clip = 1.0\n    #")
    )
    words = [f"--config={config_file}", "--config.agent.clip=None"]
    command = border.read_command(words, {"agent": Settings})
    assert command.config.agent.clip is None
    for groups in (None, {"loop": Settings}):
        with pytest.raises(ConfigError, match="agent.clip is None: it must be of type"):
            border.read_command(words, groups)
    words[1] = "--config.agent.learning_rate=None"
    with pytest.raises(ConfigError, match="rate is None: it must be of type float"):
        border.read_command(words, {"agent": Settings})


def test_a_config_that_is_not_python_is_told(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# Title\n\nSome words, no program.\n")
    with pytest.raises(ConfigError, match=r"README.md is not Python, line 3: .*"):
        border.load_config(str(path))


def test_a_limit_of_whole_numbers_is_written_out():
    assert str(border.SEED) == "in [0, 4294967295]"
    assert str(border.SHARE) == "in [0, 1]" and str(Limit(0.5, 2.0)) == "in [0.5, 2]"
    assert not border.SEED.holds(2**32) and border.SEED.holds(2**32 - 1)


def test_rejects_an_unknown_scale(config_file):
    with pytest.raises(ConfigError, match="scale is 'full' or 'smoke', got 'huge'"):
        border.load_config(f"{config_file}:huge")


def run(monkeypatch, main, *words):
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        border.run(main, "Trains.")
    return ended.value.code


def test_run_turns_errors_into_a_message(config_file, monkeypatch, capsys):
    def main(config, workdir):
        border.require(config.seed < 5, "seed", config.seed, "below 5")

    words = [f"--config={config_file}", "--workdir=w"]
    assert run(monkeypatch, main, *words) == 0
    assert run(monkeypatch, main, *words, "--config.seed=7") == 2
    assert capsys.readouterr().err == "error: config.seed is 7: it must be below 5\n"
    assert run(monkeypatch, main, words[0]) == 2
    assert "--workdir=DIR is missing" in capsys.readouterr().err


def test_help_lists_the_settings(config_file, monkeypatch, capsys):
    assert run(monkeypatch, None, f"--config={config_file}", "--help") == 0
    shown = capsys.readouterr().out
    assert "--config.agent.learning_rate" in shown and "0.001" in shown
    assert run(monkeypatch, None, "--help") == 0


@pytest.mark.parametrize(
    "value, parsed", [("auto", "auto"), ("never", "never"), ("120", 120), (7, 7)]
)
def test_resume(value, parsed):
    assert border.parse_resume(value) == parsed


@pytest.mark.parametrize("value", ["always", "-1", "1.5", "", None, True])
def test_resume_takes_nothing_else(value):
    with pytest.raises(ConfigError, match="'auto', 'never' or the number"):
        border.parse_resume(value)
