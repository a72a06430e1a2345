"""Steps sampled from prefixes in the cache, and V read beside them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder, logits
from rljax.models.heads import Head
from rljax.search import steps as steps_lib
from rljax.search import values as values_lib
from rljax.search.beam import Settings, search, step_keys
from rljax.search.steps import Sizes, Steps
from rljax.search.values import at_end, one_early, where_steps_begin

V, END, LINE = 19, 0, 5
PLAIN = ModelConfig(
    vocab_size=V, width=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6,
    mlp_width=20, rope_theta=100.0, max_positions=64,
)  # fmt: skip
GEMMA = dataclasses.replace(
    PLAIN, window=3, window_layers=(0,), local_rope_theta=10.0, post_norms=True,
    norm_offset=1.0, qk_norm=True, embedding_scale=4.0, attention_softcap=5.0,
)  # fmt: skip
GPT2 = dataclasses.replace(
    PLAIN, num_kv_heads=4, learned_positions=True, layer_norm=True, gated_mlp=False,
    qkv_bias=True, output_biases=True,
)  # fmt: skip
SIZES = Sizes(prompt=9, longest=24, check=3)
PROMPTS = [[5], [1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 8, 7]]


def random_params(c, seed=0):
    rng = np.random.default_rng(seed)
    z = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(Decoder(c).init, jax.random.key(0), z, z, z[None] == 0)
    return {
        name: jnp.asarray(rng.standard_normal(x.shape) * 0.4, x.dtype)
        for name, x in sorted(shapes["params"].items())
    }


def whole(c):
    """Hidden states and logits of one text, without any cache."""

    @jax.jit
    def run(params, ids):
        t = ids.shape[1]
        places = jnp.arange(t)[None]
        mask = jnp.tril(jnp.ones((1, t, t), bool))
        hidden = jnp.asarray(Decoder(c).apply({"params": params}, ids, places, mask))
        return hidden, logits(params, hidden, c)

    def of(params, ids):
        padded = np.zeros((1, SIZES.prompt + SIZES.longest), np.int32)
        padded[0, : len(ids)] = ids
        return [np.asarray(x)[0, : len(ids)] for x in run(params, padded)]

    return of


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def words(count, seed=0):
    return step_keys(keys(1, seed), 0, np.zeros(count, int), np.arange(count))


@pytest.fixture(scope="module")
def plain():
    """Parameters, a sampler of lines, a critic, and V of whole texts."""
    params, trunk = random_params(PLAIN), random_params(PLAIN, 1)
    weights = np.random.default_rng(2).standard_normal(PLAIN.width)
    head = {"Dense_0": {"kernel": weights[:, None], "bias": np.array([0.25])}}
    sampler = steps_lib.make(params, PLAIN, SIZES, end_ids=(END,), step_ids=(LINE,))
    critic = critic_of(trunk, head)
    run = whole(PLAIN)

    def value(ids):
        return run(trunk, ids)[0] @ weights + 0.25

    return params, sampler, critic, value, (trunk, head)


def critic_of(trunk, head, reading=at_end, c=PLAIN):
    def apply(hidden):
        return jnp.asarray(Head(()).apply({"params": head}, hidden))

    return values_lib.make(trunk, apply, c, SIZES, reading)


@pytest.mark.parametrize("c", [PLAIN, GEMMA, GPT2], ids=["llama", "gemma", "gpt2"])
def test_greedy_steps_join_into_the_likeliest_text(c):
    """Steps after steps, rows in any order, against argmax without a cache."""
    params, run = random_params(c), whole(c)
    sampler = steps_lib.make(
        params, c, SIZES, end_ids=(END,), step_ids=range(1, 12), temperature=0.0
    )
    state = sampler.start(PROMPTS)
    texts = [list(prompt) for prompt in PROMPTS]
    order, lengths, ended = np.array([2, 0, 1, 0, 2, 1, 0]), [], []
    while True:
        order = np.array([n for n in order if state.goes_on[n]], np.int32)
        if not len(order):
            break
        state, found = sampler.sample(state, order, words(len(order)))
        texts = [[*texts[n], *x] for n, x in zip(order, found.ids, strict=True)]
        lengths += [len(x) for x in found.ids]
        order = np.arange(len(texts))[::-1]
        ended += [text for text, on in zip(texts, state.goes_on, strict=True) if not on]
    for text in ended:
        best = run(params, text)[1].argmax(axis=-1)
        begin = next(len(p) for p in PROMPTS if text[: len(p)] == p)
        assert text[begin:] == best[begin - 1 : -1].tolist()
    assert len(ended) == 7
    assert len(lengths) > 12


def test_critic_equals_the_whole_forward_pass(plain):
    _, sampler, critic, value, _ = plain
    prefixes, judged = sampler.start(PROMPTS), critic.start(PROMPTS)
    texts = [list(prompt) for prompt in PROMPTS]
    order = np.array([1, 1, 0, 2, 1, 2, 2, 2, 0, 1])
    for number in range(3):
        prefixes, steps = sampler.sample(prefixes, order, words(len(order), number))
        judged, v = critic.value(judged, order, steps)
        texts = [[*texts[n], *x] for n, x in zip(order, steps.ids, strict=True)]
        for row, text in enumerate(texts):
            expected = value(text)
            back = 2 if steps.finished[row] else 1
            assert v[row] == pytest.approx(expected[-back], abs=1e-4)
            held = np.asarray(judged.values)[row, : len(text)]
            np.testing.assert_allclose(held, expected, atol=1e-4)
            assert judged.length[row] == len(text)
        order = np.flatnonzero(prefixes.goes_on)[::-1].repeat(2)
    assert len(order) > 4


def test_cache_extended_in_other_families():
    for c in (GEMMA, GPT2):
        trunk = random_params(c)
        weights = np.random.default_rng(2).standard_normal((c.width, 1))
        head = {"Dense_0": {"kernel": weights, "bias": np.zeros(1)}}
        critic = critic_of(trunk, head, c=c)
        state, texts = critic.start(PROMPTS), PROMPTS
        rng = np.random.default_rng(0)
        for count in (3, 18):  # of two sizes
            said = [rng.integers(0, V, rng.integers(1, count)) for _ in texts]
            none = np.zeros(len(texts), bool)
            steps = Steps(said, none, ~none, none, none.astype(np.int32))
            state, v = critic.value(state, np.arange(len(texts)), steps)
            texts = [[*a, *b] for a, b in zip(texts, said, strict=True)]
            for text, found in zip(texts, v, strict=True):
                hidden = whole(c)(trunk, text)[0]
                assert found == pytest.approx((hidden @ weights)[-1, 0], abs=1e-4)


def test_v_is_read_where_it_was_asked_for(plain):
    _, _, _, value, (trunk, head) = plain
    said = [[1, 2, LINE], [1, 2, END], [1, 2, 3], [END]]
    none = np.zeros(4, bool)
    steps = Steps(
        [np.array(x, np.int32) for x in said],
        finished=np.array([False, True, False, True]),
        delimited=np.array([True, False, False, False]),
        cut=np.array([False, False, True, False]),
        dropped=none.astype(np.int32),
    )
    prompt = PROMPTS[1]
    backs = {
        at_end: (1, 2, 1, 2),
        one_early: (3, 3, 2, 3),
        where_steps_begin: (1, 4, 4, 2),
    }
    for reading, back in backs.items():
        critic = critic_of(trunk, head, reading)
        _, v = critic.value(critic.start([prompt]), np.zeros(4, int), steps)
        expected = [value([*prompt, *x])[-b] for x, b in zip(said, back, strict=True)]
        np.testing.assert_allclose(v, expected, atol=1e-4)
    critic = critic_of(trunk, head, one_early)
    short = critic.start([[7]])
    with pytest.raises(ValueError, match="V of row 3 is to be read 1 tokens before"):
        critic.value(short, np.zeros(4, int), steps)


def test_steps_end_where_they_should(plain):
    _, sampler, _, _, _ = plain
    state, found = sampler.sample(
        sampler.start(PROMPTS), np.repeat(np.arange(3), 20), words(60)
    )
    kinds = set()
    for row, ids in enumerate(found.ids):
        assert not np.isin(ids[:-1], (END, LINE)).any()
        kind = (ids[-1] == END, ids[-1] == LINE, ids[-1] not in (END, LINE))
        assert kind == (found.finished[row], found.delimited[row], found.cut[row])
        assert found.cut[row] == (len(ids) == 24 and ids[-1] not in (END,)) or (
            len(ids) < 24
        )
        assert state.goes_on[row] == found.delimited[row]
        kinds.add(kind)
    assert len(kinds) == 3
    assert not found.dropped.any()
    row = int(np.flatnonzero(~state.goes_on)[0])
    with pytest.raises(ValueError, match=f"row {row} has ended"):
        sampler.sample(state, np.array([row]), words(1))


def letters(ids):
    """Two letters a token."""
    return "".join("abcdefghijklmnopqrs"[i] * 2 for i in ids)


def test_strings_end_steps_and_what_was_sampled_since_is_dropped(plain):
    params, _, critic, value, _ = plain
    strings = ["bc", "ccd", "n", "q"]
    made = steps_lib.make(
        params, PLAIN, SIZES, end_ids=(END,), stop_strings=strings, text=letters
    )
    free = steps_lib.make(params, PLAIN, SIZES, end_ids=(END,))
    rows = np.repeat(np.arange(3), 6)
    _, plain_steps = free.sample(free.start(PROMPTS), rows, words(18))
    state, found = made.sample(made.start(PROMPTS), rows, words(18))

    def holds(ids):
        return any(string in letters(ids) for string in strings)

    for row, ids in enumerate(plain_steps.ids):
        ends = (n for n in range(1, len(ids) + 1) if holds(ids[:n]))
        end = next(ends, len(ids))
        assert found.ids[row].tolist() == ids[:end].tolist()
        assert found.delimited[row] == holds(ids[:end])
        assert 0 <= found.dropped[row] < 3
    assert found.dropped.any()
    # What comes next is drawn as if nothing had been dropped.
    goes_on = np.flatnonzero(found.delimited & ~found.cut)
    texts = [[*PROMPTS[rows[n]], *found.ids[n]] for n in goes_on]
    longer = dataclasses.replace(SIZES, prompt=33)
    again = steps_lib.make(
        params, dataclasses.replace(PLAIN, max_positions=80), longer,
        end_ids=(END,), temperature=0.0,
    )  # fmt: skip
    greedy = steps_lib.make(params, PLAIN, SIZES, end_ids=(END,), temperature=0.0)
    _, one = greedy.sample(state, goes_on, words(len(goes_on)))
    _, other = again.sample(
        again.start(texts), np.arange(len(texts)), words(len(texts))
    )
    assert sum(map(len, one.ids)) > 20
    for a, b in zip(one.ids, other.ids, strict=True):
        assert a.tolist() == b[: len(a)].tolist()


def test_problems_searched_together_and_alone(plain):
    _, sampler, critic, value, _ = plain
    settings = Settings(beams=3, rounds=4)

    def run(prompts, some):
        start = (sampler.start(prompts), critic.start(prompts))
        return search(sampler.sample, critic.value, start, some, settings)

    together = run(PROMPTS, keys(3))
    finished = 0
    for p, one in enumerate(together):
        (alone,) = run([PROMPTS[p]], keys(3)[p : p + 1])
        assert [x.ids.tolist() for x in alone.done] == [
            x.ids.tolist() for x in one.done
        ]
        np.testing.assert_allclose(
            [x.value for x in alone.done], [x.value for x in one.done], atol=1e-4
        )
        assert alone.cost == one.cost
        assert alone.cut == one.cut
        for answer in one.done:
            assert answer.ids[-1] == END
            v = value([*PROMPTS[p], *answer.ids])
            assert answer.value == pytest.approx(v[-2], abs=1e-4)
        assert one.answer is None or one.answer.value == max(x.value for x in one.done)
        finished += len(one.done)
    assert finished > 3


def test_few_programs(plain):
    _, sampler, critic, _, _ = plain
    assert sampler.traces.count("run") <= 5
    assert critic.traces.count("read") <= 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": Sizes(prompt=0, longest=4)}, "prompt is 0"),
        ({"sizes": Sizes(prompt=9, longest=60)}, "may come to 69"),
        ({"end_ids": (V,)}, "stop id 19"),
        ({"stop_strings": ["x"]}, "need `text`"),
    ],
)
def test_refused(change, words):
    given = {"sizes": SIZES, "end_ids": (END,)} | change
    sizes = given.pop("sizes")
    with pytest.raises(ValueError, match=words):
        steps_lib.make({}, PLAIN, sizes, **given)


def test_a_prompt_that_does_not_fit(plain):
    _, sampler, critic, _, _ = plain
    for start in (sampler.start, critic.start):
        with pytest.raises(ValueError, match="prompt 1 has 10 tokens"):
            start([[1], [1] * 10])
        with pytest.raises(ValueError, match="prompt 0 has 0 tokens"):
            start([[]])
