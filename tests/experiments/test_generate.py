"""Texts and distributions over commands at the command line."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import generate
from rljax.models import hf_folder, loading
from rljax.models.config import ModelConfig
from rljax.policy import networks
from rljax.text import tokenizer as tokenizers
from rljax.types import Tokens
from tests.models import golden_t5

STORIES = pathlib.Path(os.environ.get("RLJAX_DATA", "data"), "stories260K")


@pytest.fixture(scope="module")
def words():
    return tokenizers.word_level([f"w{i}" for i in range(20)])


@pytest.fixture(scope="module")
def folder(words, tmp_path_factory):
    """A small random model whose logits differ enough to be told apart."""
    size = ModelConfig(len(words), 16, 2, 2, 1, 8, 24, max_positions=64)
    params = networks.make(size, words.eos_token_id, (4,)).init_trunk(jax.random.key(1))
    params["unembedding"] = 40 * params["unembedding"]
    path = tmp_path_factory.mktemp("models") / "small"
    hf_folder.save(path, params, size, words)
    return path


def run(*words, capsys):
    code = generate.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def logits_of(folder, ids):
    model = loading.open_model(folder)
    policy = networks.make(model.config, 1, (4,))
    tokens = Tokens(jnp.asarray([ids]), jnp.array([len(ids)]))
    assert policy.logits is not None
    return np.asarray(policy.logits(loading.load_params(model), tokens))[0, -1]


def test_greedy_text_and_its_scores(folder, words, capsys):
    flags = ("--model", folder, "--prompt", "w3 w5", "--temperature=0")
    code, lines, _ = run(*flags, "--max_tokens=6", "--scores", capsys=capsys)
    assert code == 0
    *scores, text = lines
    ids = list(words("w3 w5", add_special_tokens=False)["input_ids"])
    for line in scores:
        found = logits_of(folder, ids)
        best = int(np.argmax(found))
        log_prob = found[best] - np.log(np.sum(np.exp(found)))
        value, token, _ = line.split()
        assert int(token) == best
        assert float(value) == pytest.approx(log_prob, abs=2e-4)
        ids.append(best)
    assert text == words.decode(ids[2:], skip_special_tokens=True)
    assert len(scores) == 6 or ids[-1] == words.eos_token_id


def test_commands_are_a_distribution(folder, words, capsys):
    flags = ("--model", folder, "--prompt", "w3 w5", "--commands", "w1,w1 w2,w7")
    code, lines, _ = run(*flags, capsys=capsys)
    assert code == 0
    found = {" ".join(line.split()[2:]): float(line.split()[0]) for line in lines}
    base = list(words("w3 w5", add_special_tokens=False)["input_ids"])
    scores = {}
    for text in found:
        ids, total = list(base), 0.0
        for token in [*words(text, add_special_tokens=False)["input_ids"], 1]:
            logits = logits_of(folder, ids)
            total += logits[token] - np.log(np.sum(np.exp(logits)))
            ids.append(token)
        scores[text] = np.exp(total)
    assert set(found) == {"w1", "w1 w2", "w7"}
    for text, value in found.items():
        assert value == pytest.approx(scores[text] / sum(scores.values()), abs=1e-3)


def test_samples_follow_the_seed(folder, capsys):
    flags = ("--model", folder, "--prompt", "w3", "--samples=3", "--max_tokens=8")
    _, first, _ = run(*flags, "--seed=1", capsys=capsys)
    _, again, _ = run(*flags, "--seed=1", capsys=capsys)
    _, other, _ = run(*flags, "--seed=2", capsys=capsys)
    assert first == again != other and len(first) == 3


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--prompt=w3", "--model=/nowhere"), "there is no model at /nowhere"),
        (("--prompt=w3 zebra",), "does not know 'zebra'"),
        (("--prompt=", "--max_tokens=1"), "--prompt is empty"),
        (("--prompt=w3", "--max_tokens=100"), "the model's context is 64"),
        (("--prompt=w3", "--temperature=-1"), "temperature is -1.0"),
        (("--prompt=w3", "--top_p=2"), "top_p is 2.0"),
        (("--prompt=w3", "--chat"), "chat template"),
        (("--prompt=w3", "--commands=,"), "no admissible command"),
    ],
)
def test_what_cannot_be_is_told(folder, flags, message, capsys):
    code, _, error = run("--model", folder, *flags, capsys=capsys)
    assert code == 2 and error.startswith("error: ") and message in error


def test_an_encoder_decoder_scores_and_does_not_generate(words, tmp_path, capsys):
    config, params = golden_t5.read("t5_gated")
    values, _ = golden_t5.file_of("t5_gated")
    hf_folder.save(tmp_path / "t5", params, config, words, values)
    flags = ("--model", tmp_path / "t5", "--prompt", "w3 w5")
    code, lines, _ = run(*flags, "--commands=w1,w2 w3", capsys=capsys)
    assert code == 0
    assert sum(float(line.split()[0]) for line in lines) == pytest.approx(1, abs=1e-3)
    code, _, error = run(*flags, capsys=capsys)
    assert code == 2 and "is an encoder-decoder" in error


def test_a_real_model_tells_its_story(capsys):
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES} is absent")
    code, lines, _ = run(
        "--model", STORIES / "stories260K.bin", "--prompt=", "--temperature=0",
        "--max_tokens=40", capsys=capsys,
    )  # fmt: skip
    begins = "Once upon a time, there was a little girl named Lily."
    assert code == 0 and lines[0].startswith(begins)
