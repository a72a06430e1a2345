"""V that a run writes is V that a search reads; a search goes on where it stopped."""

import json
import pathlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import border, critic, offline, reasoning, search, search_methods
from experiments import oreo as oreo_main
from experiments.border import ConfigError
from experiments.configs import oreo as oreo_config
from experiments.configs import search as search_config
from rljax.agents import oreo
from rljax.data import packing
from rljax.envs import verifiers
from rljax.models import hf_folder, loading
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder
from rljax.models.lora import LoraConfig
from rljax.policy import texts
from rljax.search import values
from rljax.search.steps import Sizes, Steps
from rljax.text import tokenizer as tokenizers
from rljax.training.files import RunError
from rljax.types import Episode

CHARACTERS = "\n #*+-0123456789=?"


@pytest.fixture(scope="module")
def start():
    """A small model, as a run begins with it."""
    tokens = tokenizers.character_level(CHARACTERS)
    size = ModelConfig(len(tokens), 16, 2, 2, 2, 8, 24)
    one = jnp.zeros((1, 1), jnp.int32)
    params = Decoder(size).init(jax.random.key(0), one, one, one[None] == 0)["params"]
    policy, end = texts.make(size), (tokens.eos_token_id,)
    return offline.Start(size, tokens, end, policy, None, lambda: params, "random")


def episodes(start):
    """Prompts and answers that end, of several lengths."""
    rng, found = np.random.default_rng(0), []
    for line, (prompt, said) in enumerate([(3, 2), (5, 17), (4, 30)], 1):
        ids = rng.integers(3, len(start.tokenizer), prompt + said).astype(np.int32)
        ids[-1] = start.eos_ids[0]
        action = np.arange(prompt + said) >= prompt
        step = np.where(action, 0, -1).astype(np.int32)
        found.append(Episode(ids, action, step, 1.0, "", "", line))
    return found


def shaken(tree, seed):
    leaves, shape = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    moved = [x + 0.3 * rng.standard_normal(x.shape).astype(x.dtype) for x in leaves]
    return jax.tree.unflatten(shape, [jnp.asarray(x) for x in moved])


@pytest.mark.parametrize("kind", ["own_trunk", "shared_trunk", "adapter"])
def test_exported_v_is_what_the_agent_reads(start, kind, tmp_path):
    made = {
        "own_trunk": lambda: oreo.own_trunk(start.texts),
        "shared_trunk": lambda: oreo.shared_trunk(start.texts),
        "adapter": lambda: oreo.own_trunk(texts.make(start.config, LoraConfig(2, 4.0))),
    }[kind]()
    agent = oreo.make(start.texts, made, oreo.Config())
    state = agent.init(jax.random.key(0), start.weights())
    state.params["critic"] = shaken(state.params["critic"], 1)
    state.params["actor"] = shaken(state.params["actor"], 2)
    log = episodes(start)
    plan = packing.make_plan([(one,) for one in log], 3, 1, 0, tokens=64)
    reading = jax.jit(agent.read)(state, packing.pack(plan, [(one,) for one in log]))
    expected = np.asarray(reading.value)

    trunk = made.trunk(state.params["critic"], start.weights())
    extra = critic.export(start, trunk, state.params["critic"]["head"])
    policy = agent.policy(state)
    hf_folder.save(
        tmp_path / "hf", policy, start.config, start.tokenizer, extras=[extra]
    )
    assert (tmp_path / "hf" / "critic").is_dir() == (kind != "shared_trunk")
    found = critic.load(str(tmp_path / "hf"), start.config)
    assert (found.params is None) == (kind == "shared_trunk")
    params = policy if found.params is None else found.params
    # Beside another policy V brings its trunk along, whosever it is.
    apart = critic.load(str(tmp_path / "hf"), start.config, apart=True)
    jax.tree.map(np.testing.assert_array_equal, apart.params, params)
    judge = values.make(params, found.head, found.config, Sizes(prompt=8, longest=32))
    at = judge.start([one.ids[~one.action] for one in log])
    none = np.zeros(3, bool)
    steps = Steps([x.ids[x.action] for x in log], ~none, none, none, none.astype(int))
    at, v = judge.value(at, np.arange(3), steps)
    for row, one in enumerate(log):
        said = int(one.action.sum())
        first = len(one.ids) - said - 1
        traced = np.asarray(at.values)[row, first : first + said]
        np.testing.assert_allclose(traced, expected[row, :said], atol=2e-5)
        # Of a finished answer V before its end token is read.
        assert v[row] == pytest.approx(expected[row, said - 1], abs=2e-5)
    assert np.ptp(v) > 1e-3


@pytest.mark.parametrize("level", ["token", "step"])
def test_a_run_says_where_it_learnt_v(level, start, tmp_path):
    config = oreo_config.get_config("smoke")
    config.level = level
    method = oreo_main.method_of(config)
    agent = method.agent(start, 10, None)
    (extra,) = method.extras(start, agent.init(jax.random.key(0), start.weights()))
    hf_folder.save(
        tmp_path / "hf", start.weights(), start.config, start.tokenizer, extras=[extra]
    )
    reading = critic.load(str(tmp_path / "hf"), start.config).reading
    wanted = {"token": values.at_end, "step": values.where_steps_begin}
    assert reading is wanted[level]


@pytest.mark.parametrize(
    ("reading", "back"),
    [
        (values.at_end, (2, 2, 1)),
        (values.one_early, (3, 3, 2)),
        (values.where_steps_begin, (5, 4, 4)),
    ],
)
def test_whole_answers_are_read_as_searches_read_them(reading, back, start, run):
    """Of seven, three and five tokens; the last step has four, three and three."""
    found = critic.load(str(run / "hf"), start.config)
    judge = values.make(
        found.params, found.head, found.config, Sizes(prompt=8, longest=32), reading
    )
    rng, size = np.random.default_rng(0), len(start.tokenizer)
    prompt = rng.integers(3, size, 3).astype(np.int32)
    said = [rng.integers(3, size, n).astype(np.int32) for n in (7, 3, 5)]
    last = {7: 3, 3: 0, 5: 2}
    stopped = np.array([True, True, False])
    answers = reasoning.Answers(said, [], stopped, stopped)
    read = search_methods._judged(judge, [prompt], answers, 1, lambda x: last[len(x)])
    for text, places, v in zip(said, back, read, strict=True):
        whole = judge.start([prompt])
        none = np.zeros(1, bool)
        steps = Steps([text], none, ~none, none, none.astype(np.int32))
        whole, _ = judge.value(whole, np.zeros(1, int), steps)
        every = np.asarray(whole.values)[0, : 3 + len(text)]
        assert v == pytest.approx(every[-places], abs=1e-5)


def test_a_folder_without_v_is_refused(start, tmp_path):
    hf_folder.save(tmp_path / "hf", start.weights(), start.config, start.tokenizer)
    with pytest.raises(ConfigError, match="config.model.path: .* no heads"):
        critic.load(str(tmp_path / "hf"), start.config)
    with pytest.raises(ConfigError, match="config.critic.path: .* no heads"):
        critic.load(str(tmp_path / "hf"), start.config, apart=True)


@pytest.fixture(scope="module")
def run(start, tmp_path_factory):
    """An OREO run of a step or two, whose folder is searched with."""
    place = tmp_path_factory.mktemp("run")
    hf_folder.save(place / "base", start.weights(), start.config, start.tokenizer)
    rows = [
        {"prompt": f"1+{n}=?\n", "response": f"#### {n + 1}", "reward": n % 2}
        for n in range(8)
    ]
    (place / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = oreo_config.get_config("smoke")
    config.model.path = str(place / "base")
    config.data.path = str(place / "log.jsonl")
    config.data.row_tokens = 64
    config.task.train_size = 1
    config.eval.problems = 1
    config.eval.max_tokens = 8
    config.lora.rank = 2
    oreo_main.main(config, str(place / "oreo"))
    return place / "oreo"


def searched(run, **more):
    config = search_config.get_config("smoke")
    config.model.path = str(run / "hf")
    config.eval.max_tokens = 12
    config.eval.problems = 3
    config.task.train_size = 1
    config.beams = (2,)
    config.most_samples = 4
    config.update(more)
    return config


def test_searches_and_goes_on(run, tmp_path, capsys, monkeypatch):
    assert json.loads((run / "hf" / "heads.json").read_text())["trunk"] == "critic"
    # Its policy learnt an adapter, which went into the weights that were written.
    before, after = (
        loading.load_params(loading.open_model(folder))
        for folder in (run.parent / "base", run / "hf")
    )
    assert np.abs(np.asarray(after["qkv"]) - np.asarray(before["qkv"])).max() > 0
    np.testing.assert_array_equal(after["embedding"], before["embedding"])
    search.main(searched(run), str(tmp_path))
    printed = capsys.readouterr().out
    held = json.loads((tmp_path / "search.json").read_text())
    rows = held["methods"]
    assert len(rows) == 2 + 4
    assert all(len(row["right"]) == 3 for row in rows.values())
    for name, row in rows.items():
        judged = name.startswith(("best", "beam"))
        assert (row["critic_tokens"] > 0) == judged
        assert row["policy_tokens"] > row["generated"] > 0
        assert name in printed
    # The prompt is read once, whatever is sampled after it.
    beam, best = rows["beam 2"], rows["best of N, tokens of beam 2"]
    prompt = rows["greedy"]["policy_tokens"] - rows["greedy"]["generated"]
    for row in (beam, best):
        assert row["critic_tokens"] == row["policy_tokens"]
        assert row["policy_tokens"] == pytest.approx(row["generated"] + prompt)
    # Half of it is lost; what comes again is the same, what is there is not redone.
    held["methods"] = {name: rows[name] for name in list(rows)[:3]}
    (tmp_path / "search.json").write_text(json.dumps(held))

    def refuse(*_):
        raise AssertionError("it is there already")

    with monkeypatch.context() as patch:
        patch.setattr(search_methods, "greedy", refuse)
        patch.setattr(search_methods, "beam", refuse)
        search.main(searched(run), str(tmp_path))
    again = json.loads((tmp_path / "search.json").read_text())["methods"]
    for row in (*rows.values(), *again.values()):
        del row["seconds"]
    assert again == rows
    made = json.loads((tmp_path / "config.json").read_text())
    assert made["versions"]["jax"] == jax.__version__ and "git" in made
    with pytest.raises(RunError, match="rounds: 20 there, 3 here"):
        search.main(searched(run, rounds=3), str(tmp_path))


def test_v_of_a_run_guides_the_policy_it_began_with(start, run, tmp_path):
    config = searched(run)
    config.model.path = str(run.parent / "base")
    with pytest.raises(ConfigError, match="config.model.path: .* no heads"):
        search.main(config, str(tmp_path / "alone"))
    other = tokenizers.character_level(CHARACTERS.replace("#", "$"))
    hf_folder.save(tmp_path / "other", start.weights(), start.config, other)
    for where, fault in (("other", "the policy's own tokens"), ("none", "")):
        config.critic.path = str(tmp_path / where)
        with pytest.raises(ConfigError, match=f"config.critic.path.*{fault}"):
            search.main(config, str(tmp_path / "guided"))
    config.critic.path = str(run / "hf")
    search.main(config, str(tmp_path / "guided"))
    found = json.loads((tmp_path / "guided" / "search.json").read_text())["methods"]
    assert found["beam 2"]["critic_tokens"] > 0 and len(found) == 2 + 4


def test_turns_are_played_as_the_documentation_says(start, run):
    page = (pathlib.Path(__file__).parents[2] / "docs" / "offline.md").read_text()
    code = page.split("\n## Turns\n")[1].split("```python\n")[1].split("```")[0]
    texts = [start.tokenizer(text)["input_ids"] for text in ("1+1=?\n", "12+1=?\n")]
    names: dict[str, Any] = {"folder": str(run / "hf"), "texts": texts}
    exec(code, names)
    found, played = names["found"], names["played"]
    assert found.values.shape == (2, 5) and np.isfinite(found.values).all()
    finished = found.steps.finished.reshape(2, 5)
    for n, turn in enumerate(played):
        if turn is None:
            assert not finished[n].any()
            continue
        assert turn[-1] == start.eos_ids[0]
        assert found.values[n, found.best[n]] == found.values[n, finished[n]].max()


def test_the_folder_of_something_else_is_left_alone(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds no run of ours"):
        search.main(searched(run), str(tmp_path))
    with pytest.raises(RunError, match="another config"):
        search.main(searched(run), str(run))
    assert not (run / "search.json").exists()
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]


def test_wrong_beams_end_the_command_with_2(monkeypatch, capsys):
    spec = pathlib.Path(search_config.__file__)
    words = [f"--config={spec}:smoke", "--workdir=x", "--config.model.path=x"]
    for given, shown in (("a", "('a',)"), ("(2.5,)", "(2.5,)"), ("True", "(True,)")):
        monkeypatch.setattr("sys.argv", ["search", *words, f"--config.beams={given}"])
        with pytest.raises(SystemExit) as ended:
            border.run(search.main, "")
        assert ended.value.code == 2
        said = f"config.beams is {shown}: it must be whole numbers from 1 on"
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": 3}, "config.rows"),
        ({"beams": (0,)}, "config.beams"),
        ({"beams": ()}, "config.beams"),
        ({"data": {"delimiters": ("",)}}, "config.data.delimiters"),
        ({"reading": "late"}, "reading"),
    ],
)
def test_settings_that_cannot_be(run, tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        search.main(searched(run, **change), str(tmp_path))


def test_interval():
    """Wilson's, as in Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662."""
    low, high = search.interval(81, 263)
    assert low == pytest.approx(0.2553, abs=1e-4)
    assert high == pytest.approx(0.3662, abs=1e-4)
    assert search.interval(0, 9)[0] == 0


def test_steps_end_where_v_was_learnt(monkeypatch):
    class AskedError(Exception):
        pass

    def asked(tokenizer, texts, end_ids):
        raise AskedError(texts)

    monkeypatch.setattr(search_methods, "delimiters", asked)
    for name, given in (("arithmetic", ()), ("math", ()), ("math", ("; ",))):
        learnt, config = oreo_config.get_config("smoke"), searched(pathlib.Path("x"))
        for one in (learnt, config):
            one.task.name, one.data.delimiters = name, given
        setting: Any = types.SimpleNamespace(
            config=config, start=types.SimpleNamespace(tokenizer=None, eos_ids=())
        )
        with pytest.raises(AskedError) as found:
            search_methods.beam(setting, 2)
        assert found.value.args == (reasoning.delimiters_of(learnt),)


def test_delimiters(start):
    ids, strings = search_methods.delimiters(
        start.tokenizer, ("\n", "##"), start.eos_ids
    )
    assert start.tokenizer.decode(ids) == "\n"
    assert strings == ["##"]


def test_final_numbers_are_compared_as_the_verifier_does():
    assert verifiers.number_of("a\n#### 1,234.0 x") == verifiers.number_of("#### $1234")
    assert verifiers.number_of("12") is None
    assert verifiers.number_of("#### none") is None
