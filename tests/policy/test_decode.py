"""Generated texts against the learner's forward pass over the whole text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.config import ModelConfig, RopeScaling
from rljax.models.decoder import Decoder, logits
from rljax.policy import decode, slots
from rljax.policy.desk import Settings
from rljax.policy.truncate import Truncation

V = 19
PLAIN = ModelConfig(
    vocab_size=V,
    width=16,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_width=20,
    rope_theta=100.0,
    max_positions=96,
)
GEMMA = dataclasses.replace(
    PLAIN,
    window=3,
    window_layers=(0, 2),
    local_rope_theta=10.0,
    rope_scaling=RopeScaling(factor=4.0),
    post_norms=True,
    norm_offset=1.0,
    qk_norm=True,
    embedding_scale=4.0,
    query_scale=0.3,
    attention_softcap=5.0,
    logit_softcap=8.0,
    tied_embedding=True,
)
LLAMA3 = RopeScaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=16
)
VARIANTS = {
    "llama": dataclasses.replace(PLAIN, rope_scaling=LLAMA3),
    "qwen2": dataclasses.replace(PLAIN, qkv_bias=True, scan_layers=False),
    "qwen3": dataclasses.replace(PLAIN, qk_norm=True, num_kv_heads=4),
    "mistral": dataclasses.replace(PLAIN, window=4, window_layers=(0, 1, 2)),
    "gemma": GEMMA,
    "gpt2": dataclasses.replace(
        PLAIN,
        num_kv_heads=4,
        learned_positions=True,
        layer_norm=True,
        gated_mlp=False,
        qkv_bias=True,
        output_biases=True,
    ),
    "one_layer": dataclasses.replace(PLAIN, num_layers=1, num_kv_heads=1),
}
# The cache has two sizes, 48 and 80.
SETTINGS = Settings(slots=4, prompts=(4, 9), longest=72, prefill=3, free=2, check=5)
PROMPTS = [[5], [1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 8, 7], [4] * 4, [1, 2, 3], [7, 3] * 3]
LIMITS = [7, 72, 3, 12, 1, 50]


def random_params(c, seed=0):
    rng = np.random.default_rng(seed)
    z = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(Decoder(c).init, jax.random.key(0), z, z, z[None] == 0)
    return {
        name: jnp.asarray(rng.standard_normal(x.shape) * 0.4, x.dtype)
        for name, x in sorted(shapes["params"].items())
    }


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def learner(c):
    """All logits of padded texts, without any cache."""

    @jax.jit
    def run(params, ids):
        b, t = ids.shape
        places = jnp.broadcast_to(jnp.arange(t), (b, t))
        mask = jnp.broadcast_to(jnp.tril(jnp.ones((t, t), bool)), (b, t, t))
        hidden = Decoder(c).apply({"params": params}, ids, places, mask)
        return logits(params, jnp.asarray(hidden), c)

    return lambda params, ids: np.asarray(run(params, ids), np.float64)


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def expected_log_probs(run, params, found):
    every = log_softmax(run(params, found.ids))[:, :-1]
    picked = np.take_along_axis(every, found.ids[:, 1:, None], axis=2)[..., 0]
    return np.where(found.sampled[:, 1:], picked, 0.0)


@pytest.fixture(scope="module")
def plain():
    """Parameters, a generator with stop ids, and the learner's logits."""
    made = decode.make(PLAIN, SETTINGS, stop_ids=(0, 11))
    return random_params(PLAIN), made, learner(PLAIN)


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_learner(name):
    c = VARIANTS[name]
    params, run = random_params(c), learner(c)
    made = decode.make(c, SETTINGS)
    found = made.generate(params, PROMPTS, keys(6), limits=LIMITS, temperature=0.0)
    # No cache: the likeliest token after all there is, again and again.
    ids = np.zeros((6, 96), np.int32)
    for i, prompt in enumerate(PROMPTS):
        ids[i, : len(prompt)] = prompt
    length = np.array([len(p) for p in PROMPTS])
    for n in range(max(LIMITS)):
        best = run(params, ids)[np.arange(6), length - 1].argmax(axis=-1)
        on = n < np.array(LIMITS)
        ids[on, length[on]] = best[on]
        length = length + on
    np.testing.assert_array_equal(found.length, length)
    np.testing.assert_array_equal(found.ids, ids[:, : found.ids.shape[1]])
    assert len(np.unique(ids[1])) > 3  # it says something
    sampled = made.generate(
        params, PROMPTS, keys(6), limits=LIMITS, samples=2, temperature=1.3
    )
    assert sampled.sampled.sum() == 2 * sum(LIMITS)
    for each in (found, sampled):
        expected = expected_log_probs(run, params, each)
        assert expected.min() < -0.5
        np.testing.assert_allclose(each.log_probs[:, 1:], expected, atol=1e-4)
        assert not each.log_probs[:, 0].any()
    assert len(made.traces) <= SETTINGS.most_programs


def test_log_probs_are_of_the_whole_distribution():
    """Neither temperature nor truncation shows in them, only in what is drawn."""
    params, run = random_params(PLAIN), learner(PLAIN)
    made = decode.make(PLAIN, SETTINGS, truncation=Truncation(top_k=3, min_p=0.6))
    found = made.generate(params, PROMPTS, keys(6), samples=3, temperature=2.0)
    every = run(params, found.ids)[:, :-1]
    expected = expected_log_probs(run, params, found)
    np.testing.assert_allclose(found.log_probs[:, 1:], expected, atol=1e-4)
    picked = np.take_along_axis(every, found.ids[:, 1:, None], axis=2)
    likelier = (every > picked + 1e-4).sum(axis=-1)[found.sampled[:, 1:]]
    assert set(likelier.tolist()) == {0, 1, 2}
    least = (np.exp((picked[..., 0] - every.max(axis=-1)) / 2.0))[found.sampled[:, 1:]]
    assert 0.6 - 1e-4 <= least.min() < 0.7


def test_stop_ids_end_a_text_and_belong_to_it(plain):
    params, made, run = plain
    found = made.generate(params, PROMPTS, keys(6), samples=8)
    assert 0 < found.stopped.sum() < 48 or found.stopped.all()
    for i in range(48):
        answer = found.ids[i, found.prompt_length[i] : found.length[i]]
        assert not np.isin(answer[:-1], (0, 11)).any()
        assert bool(np.isin(answer[-1], (0, 11))) == found.stopped[i]
        assert found.stopped[i] or len(answer) == 72
        assert found.prompt_length[i] == len(PROMPTS[i // 8])
        assert found.ids[i, : found.prompt_length[i]].tolist() == PROMPTS[i // 8]
        assert found.sampled[i].sum() == len(answer)
        assert found.sampled[i, found.length[i] - 1]
        assert not found.sampled[i, : found.prompt_length[i]].any()
    expected = expected_log_probs(run, params, found)
    np.testing.assert_allclose(found.log_probs[:, 1:], expected, atol=1e-4)


def answers(found):
    return [
        found.ids[i, found.prompt_length[i] : found.length[i]].tolist()
        for i in range(len(found.ids))
    ]


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
    for i in (0, 1):
        alone = made.generate(params, [PROMPTS[i]], keys(6)[i : i + 1], samples=2)
        assert answers(alone) == whole[3 * i : 3 * i + 2]
    other = dataclasses.replace(SETTINGS, slots=9, free=1, prompts=(16,), prefill=1)
    again = decode.make(PLAIN, other, stop_ids=(0, 11))
    assert answers(again.generate(params, PROMPTS, keys(6), samples=3)) == whole


def test_few_programs_and_one_prefill_a_prompt(plain):
    params, _, _ = plain
    calls = []
    made = decode.make(PLAIN, SETTINGS, stop_ids=(0, 11))
    original = decode.serve

    def counted(programs, *rest):
        def prefill(*args):
            calls.append(args[1].shape)
            return programs.prefill(*args)

        return original(programs._replace(prefill=prefill), *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "serve", counted)
        made.generate(params, PROMPTS, keys(6), samples=5)
    assert calls == [(3, 9), (3, 9)]  # six prompts, three at a time
    made.generate(params, PROMPTS[2:], keys(4), temperature=0.3)
    seen = len(made.traces)
    assert seen <= SETTINGS.most_programs
    for seed in range(3):
        rng = np.random.default_rng(seed)
        prompts = [rng.integers(0, V, n).tolist() for n in (9, 2, 5, 7, 3)]
        made.generate(params, prompts, keys(5, seed), samples=2, temperature=seed)
        assert len(made.traces) <= SETTINGS.most_programs
    assert made.traces.count("run") == 2  # one for each size of the cache
    assert made.traces.count("prefill") == 2  # buckets


@pytest.mark.parametrize("lengths", [(3, 3, 60), (60, 3)])
def test_the_cache_is_not_made_smaller_for_the_next_prompts_to_widen_it(lengths):
    """Long prompts that end at once, among short ones: no copies at each refill."""
    sizes = Settings(slots=4, prompts=(4, 60), longest=20, prefill=3, free=1, desks=1)
    prompts = [[1 + i % 7] * n for i, n in enumerate(10 * lengths)]
    limits = [1 if len(prompt) > 4 else 8 for prompt in prompts]
    seen = []
    original = decode.serve

    def counted(programs, *rest):
        def take(slots, rows, columns):
            seen.append((len(rows), columns))
            return programs.take(slots, rows, columns)

        return original(programs._replace(take=take), *rest)

    made = decode.make(PLAIN, sizes)
    assert sizes.columns == (48, 80)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "serve", counted)
        found = made.generate(
            random_params(PLAIN), prompts, keys(len(prompts)), limits=limits
        )
    assert found.sampled.sum() == sum(limits)
    assert len(seen) <= 3, seen  # wider once; at the end of the queue smaller


def letters(ids):
    """Two letters a token."""
    return "".join("abcdefghijklmnopqrs"[i] * 2 for i in ids)


def test_stop_strings_end_a_text_at_the_token_that_completes_them(plain):
    params, made, _ = plain
    free = answers(made.generate(params, PROMPTS, keys(6), samples=2))
    strings = ["bc", "ccd", "nn", "qr"]
    found = made.generate(
        params, PROMPTS, keys(6), samples=2, stop_strings=strings, text=letters
    )
    cut = 0
    for i, (whole, kept) in enumerate(zip(free, answers(found), strict=True)):
        ends = (n for n in range(1, len(whole) + 1) if holds(whole[:n], strings))
        expected = whole[: next(ends, len(whole))]
        assert kept == expected
        cut += len(expected) < len(whole)
        assert found.stopped[i] == (holds(kept, strings) or kept[-1] in (0, 11))
    assert cut > 3


def holds(ids, strings):
    return any(string in letters(ids) for string in strings)


def test_draws_follow_the_distribution():
    """Chi-square over 20,000 draws of one token."""
    count = 20_000
    rng = np.random.default_rng(0)
    row = rng.standard_normal(V).astype(np.float32) * 1.5
    rows = jnp.broadcast_to(jnp.asarray(row), (count, V))
    run = jax.jit(slots.choose, static_argnums=4)
    for temperature, t in ((1.0, Truncation()), (0.7, Truncation(top_k=6))):
        number = jnp.full(count, 3)
        drawn = run(rows, keys(count), number, jnp.float32(temperature), t)
        p = np.exp(row.astype(np.float64) / temperature)
        if t.top_k:
            p = np.where(p >= np.sort(p)[-t.top_k], p, 0.0)
        expected = count * p / p.sum()
        seen = np.bincount(np.asarray(drawn), minlength=V)
        assert not seen[expected == 0].any()
        some = expected > 0
        statistic = np.sum((seen - expected)[some] ** 2 / expected[some])
        # The 0.999 quantiles of chi-square with 18 and 5 degrees of freedom.
        assert statistic < (42.3 if t.top_k is None else 20.5)


@pytest.mark.parametrize("desks", [2, 3])
def test_desks_share_a_queue_and_change_no_text(desks):
    params = random_params(PLAIN)
    alone, shared = (
        decode.make(PLAIN, dataclasses.replace(SETTINGS, desks=n), stop_ids=(0, 11))
        for n in (1, desks)
    )
    wanted = {
        "limits": LIMITS,
        "samples": 3,
        "stop_strings": ["4"],
        "text": lambda ids: " ".join(map(str, ids)),
    }
    one = alone.generate(params, PROMPTS, keys(6), **wanted)
    several = shared.generate(params, PROMPTS, keys(6), **wanted)
    assert len(set(one.length - one.prompt_length)) > 3
    for name in ("ids", "length", "prompt_length", "sampled", "stopped"):
        np.testing.assert_array_equal(getattr(several, name), getattr(one, name))
    np.testing.assert_allclose(several.log_probs, one.log_probs, atol=1e-5)
    # Nothing is compiled twice because two threads want it at a time.
    share = dataclasses.replace(SETTINGS, desks=desks).of_desk(6)
    in_turn = decode.make(PLAIN, dataclasses.replace(share, desks=1), stop_ids=(0, 11))
    for i in range(desks):
        wanted["limits"] = LIMITS[i::desks]
        in_turn.generate(params, PROMPTS[i::desks], keys(6)[i::desks], **wanted)
    assert sorted(shared.traces) == sorted(in_turn.traces)


def test_a_fault_at_one_desk_is_raised():
    made = decode.make(PLAIN, dataclasses.replace(SETTINGS, desks=2))

    def text(ids):
        raise OverflowError("no such text")

    with pytest.raises(OverflowError, match="no such text"):
        made.generate(
            random_params(PLAIN), PROMPTS, keys(6), stop_strings=["x"], text=text
        )


def test_shares_of_desks():
    plain = Settings(slots=32, prompts=(4,), longest=8)
    two = dataclasses.replace(plain, desks=2).of_desk(9)
    assert (two.desks, two.slots, two.prefill) == (2, 16, 4)
    assert dataclasses.replace(plain, desks=2).of_desk(1).desks == 1
    assert dataclasses.replace(plain, slots=8).of_desk(9).desks == 1
    with pytest.raises(ValueError, match="desks is -1"):
        dataclasses.replace(plain, desks=-1)
