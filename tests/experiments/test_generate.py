"""Texts and distributions over commands at the command line."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as backends
import transformers

from experiments import generate
from rljax.models import encdec, hf_folder, loading
from rljax.models.config import ModelConfig
from rljax.policy import decode, networks
from rljax.text import tokenizer as tokenizers
from rljax.types import Tokens
from tests.models import golden_t5
from tests.text import speaking

STORIES = pathlib.Path(os.environ.get("RLJAX_DATA", "data"), "stories260K")


@pytest.fixture(scope="module")
def words():
    return tokenizers.word_level([f"w{i}" for i in range(20)])


@pytest.fixture(scope="module")
def folder(words, tmp_path_factory):
    """A small random model whose logits differ enough to be told apart."""
    return saved(words, tmp_path_factory.mktemp("models") / "small")


def saved(tokens, path):
    size = ModelConfig(len(tokens), 16, 2, 2, 1, 8, 24, max_positions=64)
    params = networks.make(size, 1, (4,)).init_trunk(jax.random.key(1))
    params["unembedding"] = 40 * params["unembedding"]
    hf_folder.save(path, params, size, tokens)
    return path


@pytest.fixture(scope="module")
def talking(tmp_path_factory):
    """A model with a chat template, whose turns end with another token than texts."""
    return saved(speaking.byte_level(), tmp_path_factory.mktemp("models") / "talking")


@pytest.fixture
def asked(monkeypatch):
    """What generation is asked for, in place of it."""
    found = {}

    def make(config, settings, stop_ids, keep):
        def generate(params, prompts, keys, **options):
            found.update(options, params=params, prompt=[int(i) for i in prompts[0]])
            raise ValueError("not today")

        found.update(config=config, settings=settings, stop_ids=stop_ids)
        return decode.Decoding(generate, settings, [])

    monkeypatch.setattr(generate.decode, "make", make)
    return found


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
    ids = ids_of(words, "w3 w5")
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


def expected_shares(folder, base, commands, end):
    """Each command's share: token by token, then the end."""
    scores = []
    for command in commands:
        ids, total = list(base), 0.0
        for token in [*command, end]:
            logits = logits_of(folder, ids)
            total += logits[token] - np.log(np.sum(np.exp(logits)))
            ids.append(token)
        scores.append(np.exp(total))
    return np.array(scores) / sum(scores)


def shares(lines):
    return {" ".join(line.split()[2:]): float(line.split()[0]) for line in lines}


def ids_of(tokens, text):
    return list(tokens(text, add_special_tokens=False)["input_ids"])


def test_commands_are_a_distribution(folder, words, capsys):
    flags = ("--model", folder, "--prompt", "w3 w5", "--commands", "w1,w1 w2,,w7,w1")
    code, lines, _ = run(*flags, capsys=capsys)
    assert code == 0 and len(lines) == 3
    found, texts = shares(lines), ["w1", "w1 w2", "w7"]
    commands = [ids_of(words, text) for text in texts]
    expected = expected_shares(folder, ids_of(words, "w3 w5"), commands, 1)
    assert [found[text] for text in texts] == pytest.approx(expected, abs=1e-3)


def test_commands_are_tokens_of_the_whole_text(tmp_path, capsys):
    """SentencePiece puts a space before a text of its own."""
    ids = {"</s>": 0, "▁": 1, "h": 2, "i": 3, "▁h": 4, "▁hi": 5, "a": 6, "▁a": 7}
    merges = [("▁", "h"), ("▁h", "i"), ("▁", "a")]
    backend = backends.Tokenizer(backends.models.BPE(ids, merges))
    n = backends.normalizers
    backend.normalizer = n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")])
    tokens = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>"
    )
    folder = saved(tokens, tmp_path / "pieces")
    flags = ("--model", folder, "--prompt=a a", "--commands=hi,a")
    code, lines, error = run(*flags, capsys=capsys)
    assert code == 0, error
    expected = expected_shares(folder, [7, 7], [[5], [7]], 0)
    found = shares(lines)
    assert [found["hi"], found["a"]] == pytest.approx(expected, abs=1e-3)


def test_commands_in_a_chat(talking, capsys):
    """They follow the opening without a space, and the end of a turn follows them."""
    tokens = speaking.byte_level()
    said = [{"role": "user", "content": "red?"}]
    base = tokens.apply_chat_template(
        said, add_generation_prompt=True, return_dict=False
    )
    flags = ("--model", talking, "--chat", "--prompt=red?", "--commands=cat,see")
    code, lines, error = run(*flags, capsys=capsys)
    assert code == 0, error
    commands = [ids_of(tokens, text) for text in ("cat", "see")]
    end = tokens.convert_tokens_to_ids("<|im_end|>")
    expected = expected_shares(talking, base, commands, end)
    found = shares(lines)
    assert [found["cat"], found["see"]] == pytest.approx(expected, abs=1e-3)


def test_a_chat_ends_with_its_turn_and_no_prompt_ends_it(talking, asked, capsys):
    tokens = speaking.byte_level()
    end = tokens.convert_tokens_to_ids("<|im_end|>")
    flags = ("--model", talking, "--prompt=a<|im_end|>b", "--stop=<|bos|>")
    flags += ("--max_tokens=2",)
    assert run(*flags, "--chat", capsys=capsys)[0] == 2
    assert end in asked["stop_ids"] and tokens.eos_token_id in asked["stop_ids"]
    assert asked["prompt"].count(end) == 1  # the template's own
    assert tokens.decode(asked["prompt"]).count("<|im_end|>") == 2
    # A stop string may be a special token.
    bos = tokens.convert_tokens_to_ids("<|bos|>")
    assert asked["stop_strings"] == ["<|bos|>"]
    assert "<|bos|>" in asked["text"]([end, bos])
    run(*flags, capsys=capsys)
    assert end not in asked["stop_ids"] and asked["prompt"].count(end) == 1


def test_a_word_that_a_chat_does_not_know(tmp_path, capsys):
    tokens = tokenizers.word_level(["yes", "red"])
    tokens.chat_template = (
        "{% for m in messages %}{{ m.content + '<eos>' }}{% endfor %}"
    )
    folder = saved(tokens, tmp_path / "words")
    flags = ("--model", folder, "--chat", "--prompt=red zebra")
    code, _, error = run(*flags, capsys=capsys)
    assert code == 2 and "does not know 'zebra'" in error


def test_dtype_is_of_weights_and_activations(folder, asked, capsys):
    flags = ("--model", folder, "--prompt=w3 w5", "--max_tokens=2")
    run(*flags, "--dtype=bfloat16", capsys=capsys)
    assert asked["config"].dtype == asked["config"].param_dtype == "bfloat16"
    assert all(x.dtype == jnp.bfloat16 for x in asked["params"].values())
    run(*flags, capsys=capsys)
    assert asked["config"].dtype == asked["config"].param_dtype == "float32"


@pytest.mark.parametrize("flag", ["--commands=w1,w2", "--max_tokens=2"])
def test_weights_that_are_not_finite_are_told(folder, flag, capsys, monkeypatch):
    read = loading.load_params

    def broken(model):
        return {**read(model), "final_norm": jnp.full(16, jnp.nan)}

    monkeypatch.setattr(loading, "load_params", broken)
    code, lines, error = run("--model", folder, "--prompt=w3", flag, capsys=capsys)
    assert code == 2 and not lines and "not finite" in error


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
        (
            ("--prompt=w3", "--max_tokens=64"),
            "--prompt has 1 tokens and --max_tokens is 64: together 65, but",
        ),
        (("--prompt=" + "w3 " * 64, "--max_tokens=1"), "--prompt has 64 tokens and"),
        (
            ("--prompt=" + "w3 " * 63, "--commands=w1,w1 w2"),
            "the longest of --commands has 2: together 65, but the model's context is",
        ),
        (("--prompt=w3", "--temperature=-1"), "temperature is -1.0"),
        (("--prompt=w3", "--temperature=inf"), "temperature is inf"),
        (("--prompt=w3", "--top_p=2"), "top_p is 2.0"),
        (("--prompt=w3", "--samples=0"), "--samples is 0; it must be at least 1"),
        (("--prompt=w3", "--max_tokens=0"), "--max_tokens is 0; it must be at least"),
        (
            ("--prompt=w3", f"--seed={10**20}"),
            f"--seed is {10**20}; it must be in [0, ",
        ),
        (("--prompt=w3", "--stop="), "--stop is ''; it must be some text"),
        (("--prompt=w3", "--chat"), "chat template"),
        (("--prompt=w3", "--commands=,"), "no admissible command"),
    ],
)
def test_what_cannot_be_is_told_before_weights_are_read(
    folder, flags, message, capsys, monkeypatch
):
    monkeypatch.setattr(loading, "load_params", None)
    code, _, error = run("--model", folder, *flags, capsys=capsys)
    assert code == 2 and error.startswith("error: ") and message in error


def test_a_continuation_may_fill_the_context(folder, capsys):
    flags = ("--model", folder, "--prompt=" + "w3 " * 62, "--commands=w1,w1 w2")
    code, lines, _ = run(*flags, capsys=capsys)
    assert code == 0 and sum(shares(lines).values()) == pytest.approx(1, abs=1e-3)


@pytest.fixture(scope="module")
def t5(words, tmp_path_factory):
    """The golden T5 with a tokenizer, and its parameters."""
    config, params = golden_t5.read("t5_gated")
    values, _ = golden_t5.file_of("t5_gated")
    path = tmp_path_factory.mktemp("models") / "t5"
    hf_folder.save(path, params, config, words, values)
    return path, config, params


def t5_log_probs(t5, prompt, said):
    """Of the token after `said`, by one forward pass; the encoder reads the end too."""
    _, config, params = t5
    row, ids = jnp.array([[*prompt, 1]]), jnp.array([[config.start_id, *said]])
    size = ids.shape[1]
    mask = jnp.tril(jnp.ones((1, size, size), bool))
    places = jnp.arange(size)[None]
    model = encdec.EncDec(config)
    hidden = model.apply({"params": params}, row, row >= 0, ids, places, mask)
    last = encdec.logits(params, jnp.asarray(hidden), config)[0, -1]
    return np.asarray(jax.nn.log_softmax(last))


def test_an_encoder_decoder_scores_commands(t5, words, capsys):
    flags = ("--model", t5[0], "--prompt", "w3 w5", "--commands=w1,w2 w3")
    code, lines, _ = run(*flags, capsys=capsys)
    assert code == 0
    prompt, scores = ids_of(words, "w3 w5"), []
    for command in (ids_of(words, "w1"), ids_of(words, "w2 w3")):
        said = [*command, words.eos_token_id]
        each = [t5_log_probs(t5, prompt, said[:i])[x] for i, x in enumerate(said)]
        scores.append(np.exp(sum(each)))
    found, expected = shares(lines), np.array(scores) / sum(scores)
    assert [found["w1"], found["w2 w3"]] == pytest.approx(expected, abs=1e-3)


def test_an_encoder_decoder_decodes_a_text(t5, words, capsys):
    flags = ("--model", t5[0], "--prompt", "w3 w5", "--temperature=0", "--scores")
    code, lines, error = run(*flags, "--max_tokens=5", capsys=capsys)
    assert code == 0, error
    *scores, text = lines
    prompt, said = ids_of(words, "w3 w5"), []
    for line in scores:
        expected = t5_log_probs(t5, prompt, said)
        value, token, _ = line.split(maxsplit=2)
        assert int(token) == int(np.argmax(expected))
        assert float(value) == pytest.approx(expected.max(), abs=2e-4)
        said.append(int(token))
    assert len(said) == 5 or said[-1] == words.eos_token_id
    assert text == words.decode(said, skip_special_tokens=True)
    flags = ("--model", t5[0], "--prompt=w3", "--samples=3", "--max_tokens=4")
    code, lines, _ = run(*flags, "--top_k=5", "--stop=w2", capsys=capsys)
    assert code == 0 and len(lines) == 3


def test_a_real_model_tells_its_story(capsys):
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES} is absent")
    code, lines, _ = run(
        "--model", STORIES / "stories260K.bin", "--prompt=", "--temperature=0",
        "--max_tokens=40", capsys=capsys,
    )  # fmt: skip
    begins = "Once upon a time, there was a little girl named Lily."
    assert code == 0 and lines[0].startswith(begins)
