"""Texts of an encoder-decoder against the learner's forward pass over prompt and text.

`test_decode_golden.py` holds its greedy texts to those of transformers.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import lora
from rljax.models.encdec import EncDec, logits
from rljax.models.encdec_config import EncDecConfig
from rljax.policy import decode
from rljax.policy.desk import Settings
from rljax.policy.truncate import Truncation
from tests.models import golden_t5
from tests.policy.test_decode import (
    LIMITS,
    PROMPTS,
    answers,
    holds,
    keys,
    letters,
    log_softmax,
)

V, START = 19, 6
PLAIN = EncDecConfig(
    vocab_size=V,
    width=16,
    num_layers=1,
    num_decoder_layers=2,
    num_heads=3,
    head_dim=6,
    mlp_width=20,
    num_buckets=8,
    max_distance=12,
    start_id=START,
)
VARIANTS = {
    "flan": PLAIN,
    "first": dataclasses.replace(
        PLAIN, gated=False, activation=jax.nn.relu, tied_embedding=True,
        scale_logits=True, scan_layers=False,
    ),
    "one_layer": dataclasses.replace(PLAIN, num_decoder_layers=1, num_layers=2),
}  # fmt: skip
# The cache has two sizes, 48 and 80: what is decoded, not the prompts.
SETTINGS = Settings(slots=4, prompts=(4, 9), longest=72, prefill=3, free=2, check=5)


def random_params(c, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.standard_normal(shape) * 0.4, jnp.float32)
        for name, shape in sorted(golden_t5.shapes_of(c).items())
    }


def learner(c):
    """Log-probabilities, float64 [N, T, V], of the token after each place of a row.

    Each answer is read by the decoder after the start token, at positions from 0 on,
    and its prompt by the encoder alone.
    """

    @jax.jit
    def run(params, prompts, real, ids):
        b, t = ids.shape
        places = jnp.broadcast_to(jnp.arange(t), (b, t))
        mask = jnp.broadcast_to(jnp.tril(jnp.ones((t, t), bool)), (b, t, t))
        hidden = EncDec(c).apply({"params": params}, prompts, real, ids, places, mask)
        return logits(params, jnp.asarray(hidden), c)

    def of(params, found):
        width, begin = 80, found.prompt_length
        prompts = np.zeros((len(begin), 9), np.int32)
        ids = np.full((len(begin), width), START, np.int32)
        for i, n in enumerate(begin):
            prompts[i, :n] = found.ids[i, :n]
            answer = found.ids[i, n : found.length[i]]
            ids[i, 1 : 1 + len(answer)] = answer
        real = np.arange(9) < begin[:, None]
        every = np.asarray(run(params, prompts, real, ids), np.float64)
        out = np.zeros((*found.ids.shape, V))
        for i, n in enumerate(begin):
            said = found.length[i] - n
            out[i, n : n + said] = every[i, :said]
        return log_softmax(out)

    return of


def expected_log_probs(run, params, found):
    every = run(params, found)
    picked = np.take_along_axis(every, found.ids[:, :, None], axis=2)[..., 0]
    return np.where(found.sampled, picked, 0.0)


@pytest.fixture(scope="module")
def plain():
    """Parameters, a generator with stop ids, and the learner's log-probabilities."""
    made = decode.make(PLAIN, SETTINGS, stop_ids=(0, 11))
    return random_params(PLAIN), made, learner(PLAIN)


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_learner(name):
    c = VARIANTS[name]
    params, run, made = random_params(c), learner(c), decode.make(c, SETTINGS)
    asked = {"limits": LIMITS, "samples": 2}
    greedy = made.generate(params, PROMPTS, keys(6), temperature=0.0, **asked)
    best = run(params, greedy).argmax(axis=-1)
    np.testing.assert_array_equal(best[greedy.sampled], greedy.ids[greedy.sampled])
    sampled = made.generate(params, PROMPTS, keys(6), temperature=1.3, **asked)
    for found in (greedy, sampled):
        assert (found.length - found.prompt_length).tolist() == list(
            np.repeat(LIMITS, 2)
        )
        expected = expected_log_probs(run, params, found)
        np.testing.assert_allclose(found.log_probs, expected, atol=1e-4)
    assert expected.min() < -0.5
    assert len(np.unique(sampled.ids[2])) > 3
    for name, times in {"run": 2, "start": 1, "prefill": 1}.items():
        assert made.traces.count(name) == times, made.traces


def test_the_prompt_is_what_is_answered(plain):
    """Another prompt of the same length, another distribution; padding is nothing."""
    params, made, run = plain
    one, other = (
        made.generate(params, [prompt], keys(1), temperature=0.0, limits=[8])
        for prompt in ([1, 2, 3], [1, 2, 4])
    )
    assert np.abs(one.log_probs[:, 3:5] - other.log_probs[:, 3:5]).max() > 1e-3
    wide = decode.make(PLAIN, dataclasses.replace(SETTINGS, prompts=(9,)), (0, 11))
    again = wide.generate(params, [[1, 2, 3]], keys(1), temperature=0.0, limits=[8])
    np.testing.assert_array_equal(again.ids, one.ids)
    np.testing.assert_allclose(again.log_probs, one.log_probs, atol=1e-5)


def test_beside_an_adapter_and_merged():
    params, run = random_params(PLAIN), learner(PLAIN)
    settings = lora.LoraConfig(2, 3.0, ("q", "v", "o", "wi_0"))
    rng = np.random.default_rng(1)
    adapter = jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32),
        lora.init(jax.random.key(0), PLAIN, settings),
    )
    beside = lora.attach(params, adapter, settings)
    made = decode.make(PLAIN, SETTINGS)
    found = made.generate(beside, PROMPTS, keys(6), limits=LIMITS)
    for whole in (beside, lora.merge(params, adapter, PLAIN, settings)):
        expected = expected_log_probs(run, whole, found)
        np.testing.assert_allclose(found.log_probs, expected, atol=1e-4)
    plain = expected_log_probs(run, params, found)
    assert np.abs(found.log_probs - plain).max() > 0.5  # it does something


def test_log_probs_are_of_the_whole_distribution():
    params, run = random_params(PLAIN), learner(PLAIN)
    made = decode.make(PLAIN, SETTINGS, truncation=Truncation(top_k=3, min_p=0.6))
    found = made.generate(params, PROMPTS, keys(6), samples=3, temperature=2.0)
    every = run(params, found)
    expected = expected_log_probs(run, params, found)
    np.testing.assert_allclose(found.log_probs, expected, atol=1e-4)
    likelier = (every > expected[..., None] + 1e-4).sum(axis=-1)[found.sampled]
    assert set(likelier.tolist()) == {0, 1, 2}
    least = np.exp((expected - every.max(axis=-1)) / 2.0)[found.sampled]
    assert 0.6 - 1e-4 <= least.min() < 0.7


def test_stop_ids_end_a_text_and_belong_to_it(plain):
    params, made, run = plain
    found = made.generate(params, PROMPTS, keys(6), samples=4)
    assert 0 < found.stopped.sum()
    for i, answer in enumerate(answers(found)):
        assert not np.isin(answer[:-1], (0, 11)).any()
        assert bool(np.isin(answer[-1], (0, 11))) == found.stopped[i]
        assert found.stopped[i] or len(answer) == 72
        n = found.prompt_length[i]
        assert found.ids[i, :n].tolist() == PROMPTS[i // 4]
        places = np.flatnonzero(found.sampled[i])
        assert places.tolist() == [*range(n, n + len(answer))]
    expected = expected_log_probs(run, params, found)
    np.testing.assert_allclose(found.log_probs, expected, atol=1e-4)


def test_a_text_does_not_depend_on_its_company(plain):
    params, made, _ = plain
    whole = answers(made.generate(params, PROMPTS, keys(6), samples=3))
    assert len(set(map(tuple, whole))) > 12  # samples differ
    order = np.array([4, 0, 5, 1, 3, 2])
    turned = made.generate(
        params, [PROMPTS[i] for i in order], keys(6)[order], samples=3
    )
    for place, i in enumerate(order):
        assert answers(turned)[3 * place : 3 * place + 3] == whole[3 * i : 3 * i + 3]
    alone = made.generate(params, [PROMPTS[1]], keys(6)[1:2], samples=2)
    assert answers(alone) == whole[3:5]
    two = dataclasses.replace(SETTINGS, desks=2)
    shared = decode.make(PLAIN, two, stop_ids=(0, 11))
    assert answers(shared.generate(params, PROMPTS, keys(6), samples=3)) == whole


def test_one_reading_of_a_prompt_for_all_its_samples(plain, monkeypatch):
    params, _, _ = plain
    read, original = [], decode.serve

    def counted(programs, *rest):
        def prefill(weights, ids, length):
            read.extend(length.tolist())
            return programs.prefill(weights, ids, length)

        return original(programs._replace(prefill=prefill), *rest)

    monkeypatch.setattr(decode, "serve", counted)
    made = decode.make(PLAIN, SETTINGS, stop_ids=(0, 11))
    made.generate(params, PROMPTS, keys(6), samples=5)
    assert read == [len(prompt) for prompt in PROMPTS]  # 30 texts in four slots


def test_stop_strings_end_a_text_at_the_token_that_completes_them(plain):
    params, made, _ = plain
    free = answers(made.generate(params, PROMPTS, keys(6), samples=2))
    strings = ["bc", "ccd", "nn", "qr", "es"]
    found = made.generate(
        params, PROMPTS, keys(6), samples=2, stop_strings=strings, text=letters
    )
    cut = 0
    for whole, kept in zip(free, answers(found), strict=True):
        ends = (n for n in range(1, len(whole) + 1) if holds(whole[:n], strings))
        assert kept == whole[: next(ends, len(whole))]
        cut += len(kept) < len(whole)
    assert cut > 1


@pytest.mark.parametrize(
    "prompts, options, message",
    [
        ([[1] * 10], {}, "prompt 0 has 10 tokens; the largest bucket is 9"),
        ([[]], {}, r"prompt 0 has shape \(0,\); it needs some tokens"),
        ([[1], [1, 19]], {}, "prompt 1 holds token 19; the model has 19"),
        ([[1]], {"limits": [73]}, "limit of 73 tokens; it must be from 1 to 72"),
        ([[1]], {"samples": 0}, "samples is 0; it must be >= 1"),
        ([[1]], {"temperature": -1.0}, "temperature is -1.0; it must be finite"),
        ([[1]], {"stop_strings": ["x"]}, "stop strings need `text`"),
    ],
)
def test_refuses_what_a_decoder_refuses(prompts, options, message):
    made = decode.make(PLAIN, SETTINGS)
    with pytest.raises(ValueError, match=message):
        made.generate({}, prompts, keys(len(prompts)), **options)
    with pytest.raises(ValueError, match="stop id 19 is not a token; there are 19"):
        decode.make(PLAIN, SETTINGS, stop_ids=(19,))
    assert not made.traces


def test_weights_that_are_not_finite_are_an_error(plain):
    params, made, _ = plain
    broken = {**params, "encoder_final_norm": jnp.full(16, jnp.nan)}
    with pytest.raises(FloatingPointError, match="prompt 0, sample 0.* token 0 is nan"):
        made.generate(broken, [[1]], keys(1))


def test_bfloat16_is_near_float32(plain):
    params, _, run = plain
    half = {name: x.astype(jnp.bfloat16) for name, x in params.items()}
    c = dataclasses.replace(PLAIN, dtype="bfloat16", param_dtype="bfloat16")
    found = decode.make(c, SETTINGS).generate(half, PROMPTS, keys(6), limits=[8] * 6)
    wide = {name: x.astype(jnp.float32) for name, x in half.items()}
    expected = expected_log_probs(run, wide, found)
    np.testing.assert_allclose(found.log_probs, expected, atol=0.2)
    assert found.log_probs.dtype == np.float32
