"""The surrogate of tokens: by hand, against loops, replayed prefixes, eight devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import surrogate, token_logprob
from rljax.losses.policy_gradient import ppo_policy_loss, ppo_value_loss
from rljax.losses.surrogate import surrogate_loss
from rljax.losses.token_returns import suffix_mask

B, T = 16, 5
LOW, HIGH = 0.2, 0.28


def batch(seed) -> Any:
    """Log-probabilities, advantages, a mask with gaps; one answer has no token."""
    rng = np.random.default_rng(seed)
    log_p, log_p_old = -rng.gamma(2.0, 0.3, size=(2, B, T)).astype(np.float32)
    advantage = rng.normal(size=(B, T)).astype(np.float32)
    mask = rng.random((B, T)) < rng.choice([0.3, 0.6, 1.0], size=(B, 1))
    mask[3] = False
    mask[4, 0] = True
    return log_p, log_p_old, advantage, mask


def loop(by_sequence, weigh, log_p, log_p_old, advantage, mask):
    """The loss with nothing but floats."""
    loss, answers = 0.0, sum(row.any() for row in mask)
    for b in range(B):
        length = mask[b].sum()
        mean = sum(log_p[b, t] - log_p_old[b, t] for t in range(T) if mask[b, t])
        for t in range(T):
            if not mask[b, t]:
                continue
            log_w = mean / length if by_sequence else log_p[b, t] - log_p_old[b, t]
            w = float(np.exp(log_w))
            clipped = min(max(w, 1 - LOW), 1 + HIGH)
            gain = min(w * advantage[b, t], clipped * advantage[b, t])
            loss -= weigh(length, mask.sum(), answers) * gain
    return loss


RATIOS = {"token": surrogate.token_ratio, "sequence": surrogate.sequence_ratio}
WEIGHTS = {
    "token_mean": (surrogate.token_mean, lambda length, tokens, answers: 1 / tokens),
    "sequence_mean": (
        surrogate.sequence_mean,
        lambda length, tokens, answers: 1 / length / answers,
    ),
    "fixed_length": (
        surrogate.fixed_length(7),
        lambda length, tokens, answers: 1 / 7 / answers,
    ),
}


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_is_the_loop(ratio, weights):
    ours, plain = WEIGHTS[weights]
    args = batch(0)
    loss = surrogate_loss(
        *args, low=LOW, high=HIGH, ratio=RATIOS[ratio], weights=ours
    ).loss
    expected = loop(ratio == "sequence", plain, *args)
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)


def test_by_hand():
    # One answer of two tokens; ratios 2 and 1/2; what a token gains is clipped at 1.28
    # above and, where the advantage is negative, at 0.8 below.
    log_p = jnp.log(jnp.array([[0.4, 0.25]]))
    log_p_old = jnp.log(jnp.array([[0.2, 0.5]]))
    mask = jnp.ones((1, 2), bool)

    def loss(advantage, **how):
        return surrogate_loss(
            log_p, log_p_old, jnp.array([advantage]), mask, low=LOW, high=HIGH, **how
        )

    np.testing.assert_allclose(loss([1.0, 1.0]).loss, -(1.28 + 0.5) / 2, rtol=1e-6)
    np.testing.assert_allclose(loss([-1.0, -1.0]).loss, (2.0 + 0.8) / 2, rtol=1e-6)
    # One advantage for the answer; its ratio is (2 * 1/2)^(1/2) = 1.
    out = loss([3.0], ratio=surrogate.sequence_ratio, weights=surrogate.sequence_mean)
    np.testing.assert_allclose(out.loss, -3.0, rtol=1e-6)
    assert out.metrics["train/clip_fraction"] == 0.0
    out = loss([3.0])
    assert out.metrics["train/clip_fraction"] == 1.0
    np.testing.assert_allclose(out.metrics["train/log_ratio"], np.log(2), rtol=1e-6)
    # w - 1 - log w: 1 - log 2 and -1/2 + log 2.
    np.testing.assert_allclose(out.metrics["train/approx_kl"], 0.25, rtol=1e-5)


def test_clip_fraction_tells_the_sides_apart():
    log_p = jnp.log(jnp.array([[1.25, 1.3, 0.75, 0.85]]))
    out = surrogate_loss(
        log_p, jnp.zeros((1, 4)), jnp.ones((1, 1)), jnp.ones((1, 4), bool),
        low=LOW, high=HIGH,
    )  # fmt: skip
    assert out.metrics["train/clip_fraction"] == 0.5  # 1.3 and 0.75


@pytest.mark.parametrize("weights", WEIGHTS)
def test_metrics_are_means_over_tokens(weights):
    """Whatever weighs the loss."""
    log_p, log_p_old, advantage, mask = batch(0)
    metrics = surrogate_loss(
        log_p,
        log_p_old,
        advantage,
        mask,
        low=LOW,
        high=HIGH,
        weights=WEIGHTS[weights][0],
    ).metrics
    moved = (log_p - log_p_old)[mask]
    w = np.exp(moved)
    expected = {
        "train/log_ratio": np.abs(moved).mean(),
        "train/approx_kl": (w - 1 - moved).mean(),
        "train/clip_fraction": ((w < 1 - LOW) | (w > 1 + HIGH)).mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4)


def test_with_equal_clips_it_is_ppos_loss():
    log_p, log_p_old, advantage, mask = batch(1)
    flat = [x.reshape(-1) for x in (log_p, log_p_old, advantage, mask)]
    expected = ppo_policy_loss(*flat, clip=0.2)
    found = surrogate_loss(log_p, log_p_old, advantage, mask)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    for name in ("train/approx_kl", "train/clip_fraction"):
        np.testing.assert_allclose(
            found.metrics[name], expected.metrics[name], rtol=1e-4
        )


def test_sequence_ratio_gives_each_token_the_answers_mean_gradient():
    # GSPO: d/dlog p_t of s A / B is s A / (|y| B); A = 2, |y| = 2, s = 1 at the policy
    # that sampled, B = 2.
    log_p = jnp.full((2, 3), -1.0)
    mask = jnp.array([[True, True, False], [True, True, True]])
    advantage = jnp.array([[2.0], [0.0]])
    grad = jax.grad(
        lambda x: surrogate_loss(
            x, log_p, advantage, mask,
            ratio=surrogate.sequence_ratio, weights=surrogate.sequence_mean,
        ).loss
    )(log_p)  # fmt: skip
    np.testing.assert_allclose(grad, [[-0.5, -0.5, 0], [0, 0, 0]], atol=1e-6)


def test_fixed_length_refuses_none():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        surrogate.fixed_length(0)


def test_reference_kl_by_hand():
    # q/p = 2 and 1/2: 2 - 1 - log 2 and 1/2 - 1 + log 2, mean 1/4.
    log_p, log_q = jnp.log(jnp.array([[0.2, 0.5, 1.0], [0.4, 0.25, jnp.nan]]))[:, None]
    mask = jnp.array([[True, True, False]])
    kl, grad = jax.value_and_grad(surrogate.reference_kl)(log_p, log_q, mask)
    np.testing.assert_allclose(kl, 0.25, rtol=1e-5)
    # d/dlog p of q/p - 1 - log(q/p) is 1 - q/p.
    np.testing.assert_allclose(grad, [[-0.5, 0.25, 0.0]], atol=1e-6)
    np.testing.assert_array_equal(
        jax.grad(surrogate.reference_kl, argnums=1)(log_p, log_q, mask), 0.0
    )


@pytest.mark.parametrize("ratio", RATIOS.values(), ids=RATIOS)
def test_a_replayed_prefix_moves_nothing(ratio):
    """Its log-probabilities may be anything, and get no gradient."""
    log_p, log_p_old, advantage, _ = batch(2)
    rng = np.random.default_rng(0)
    begin, length = rng.integers(0, 3, B), rng.integers(3, T + 1, B)
    mask = suffix_mask(jnp.asarray(length), jnp.asarray(begin), T)

    def step(log_p, log_p_old, advantage):
        def loss(x):
            return surrogate_loss(x, log_p_old, advantage, mask, ratio=ratio).loss

        return jax.value_and_grad(loss)(log_p)

    clean = step(log_p, log_p_old, advantage)
    prefix = np.arange(T) < begin[:, None]
    assert prefix.any()
    for junk in (np.float32(-3.0), np.float32(np.nan)):
        other = step(
            *(np.where(prefix, junk, x) for x in (log_p, log_p_old, advantage))
        )
        np.testing.assert_array_equal(other[0], clean[0])
        np.testing.assert_array_equal(other[1], clean[1])
    assert np.all(np.asarray(clean[1])[prefix] == 0.0)
    assert np.any(np.asarray(clean[1])[~prefix] != 0.0)


def test_replayed_and_bare_in_one_batch_are_their_sum_apart():
    """Two batches, each weighed by its tokens, are the batch of both."""
    log_p, log_p_old, advantage, mask = batch(3)
    replayed = np.arange(B) % 3 == 0
    parts = [mask & replayed[:, None], mask & ~replayed[:, None]]
    losses = [surrogate_loss(log_p, log_p_old, advantage, part).loss for part in parts]
    shares = [part.sum() / mask.sum() for part in parts]
    whole = surrogate_loss(log_p, log_p_old, advantage, mask).loss
    np.testing.assert_allclose(whole, np.dot(losses, shares), rtol=1e-5)


def test_value_loss_takes_tokens():
    v, v_old, returns, mask = batch(4)
    flat = [x.reshape(-1) for x in (v, v_old, returns, mask)]
    np.testing.assert_allclose(
        ppo_value_loss(v, v_old, returns, mask, clip=0.2).loss,
        ppo_value_loss(*flat, clip=0.2).loss,
        rtol=1e-6,
    )


def fused(hidden, matrix, ids, known, **how):
    """The loss in chunks, its gradient in both, and the metrics."""

    def loss(hidden, matrix):
        return token_logprob.chunked_loss(
            hidden, matrix, ids, surrogate.per_token(LOW, HIGH, **how), known, chunk=16
        )

    (value, metrics), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        hidden, matrix
    )
    return value, grads, metrics


def states_of(seed):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(B, T, 3)).astype(np.float32)
    matrix = rng.normal(size=(3, 6)).astype(np.float32)
    return hidden, matrix, jnp.asarray(rng.integers(0, 6, (B, T)))


def log_probs(hidden, matrix, ids):
    log_pi = jax.nn.log_softmax(hidden @ matrix)
    return log_pi, jnp.take_along_axis(log_pi, ids[..., None], -1)[..., 0]


@pytest.mark.parametrize("ratio", RATIOS)
def test_in_chunks_it_is_the_same_loss(ratio):
    _, _, advantage, mask = batch(7)
    hidden, matrix, ids = states_of(0)
    now = log_probs(hidden, matrix, ids)[1]
    log_p_old = np.asarray(now) + 0.3 * advantage
    weights = surrogate.sequence_mean
    by_answer = advantage[:, :1]

    def plain(hidden, matrix):
        out = surrogate_loss(
            log_probs(hidden, matrix, ids)[1], log_p_old, by_answer, mask,
            low=LOW, high=HIGH, ratio=RATIOS[ratio], weights=weights,
        )  # fmt: skip
        return out.loss, out.metrics

    (value, metrics), grads = jax.value_and_grad(plain, argnums=(0, 1), has_aux=True)(
        hidden, matrix
    )
    old = np.where(mask, log_p_old, np.nan)
    if ratio == "sequence":
        old = surrogate.gspo_log_p_old(now, log_p_old, jnp.asarray(mask))
    known = surrogate.constants(jnp.asarray(old), by_answer, mask, weights)
    found = fused(hidden, matrix, ids, known)
    np.testing.assert_allclose(found[0], value, rtol=1e-4)
    for ours, theirs in zip(found[1], grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
    assert found[2].keys() | {"train/policy_loss"} == metrics.keys()
    for name, total in found[2].items():
        np.testing.assert_allclose(total, metrics[name], rtol=1e-4, atol=1e-6)


def test_entropy_and_divergence_in_chunks():
    _, log_p_old, advantage, mask = batch(8)
    hidden, matrix, ids = states_of(1)
    other = states_of(2)[:2]
    known = surrogate.constants(log_p_old, advantage, mask)

    def plain(hidden, matrix):
        log_pi, log_p = log_probs(hidden, matrix, ids)
        log_ref = log_probs(*other, ids)[0]
        p = jnp.exp(log_pi)
        kl = jnp.sum(p * (log_pi - log_ref), axis=-1, where=mask[..., None])
        entropy = -jnp.sum(p * log_pi, axis=-1, where=mask[..., None])
        loss = surrogate_loss(log_p, log_p_old, advantage, mask, low=LOW, high=HIGH)
        return loss.loss + jnp.sum(0.5 * kl - 0.25 * entropy) / mask.sum()

    value, grads = jax.value_and_grad(plain, argnums=(0, 1))(hidden, matrix)

    def loss(hidden, matrix):
        return token_logprob.chunked_loss(
            hidden, matrix, ids, surrogate.per_token(LOW, HIGH, 0.5, 0.25), known,
            reference=token_logprob.Source(*map(jnp.asarray, other)), chunk=16,
        )[0]  # fmt: skip

    found = jax.value_and_grad(loss, argnums=(0, 1))(hidden, matrix)
    np.testing.assert_allclose(found[0], value, rtol=1e-4)
    for ours, theirs in zip(found[1], grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


CASES = {
    "ppo": lambda *a, axis_name=None: surrogate_loss(*a, axis_name=axis_name),
    "grpo": lambda *a, axis_name=None: surrogate_loss(
        *a, weights=surrogate.sequence_mean, axis_name=axis_name
    ),
    "dr_grpo": lambda *a, axis_name=None: surrogate_loss(
        *a, high=HIGH, weights=surrogate.fixed_length(T), axis_name=axis_name
    ),
    "gspo": lambda *a, axis_name=None: surrogate_loss(
        *a,
        ratio=surrogate.sequence_ratio,
        weights=surrogate.sequence_mean,
        axis_name=axis_name,
    ),
}


def junked(log_p, log_p_old, advantage, mask):
    return (*(np.where(mask, x, np.nan) for x in (log_p, log_p_old, advantage)), mask)


@pytest.mark.parametrize("loss", CASES.values(), ids=CASES)
def test_padding_may_hold_anything(loss):
    args = batch(5)
    step = jax.value_and_grad(lambda *a: loss(*a).loss)
    clean, junk = step(*args), step(*junked(*args))
    np.testing.assert_array_equal(clean[0], junk[0])
    np.testing.assert_array_equal(clean[1], junk[1])


@pytest.mark.parametrize("loss", CASES.values(), ids=CASES)
def test_constants_get_no_gradient(loss):
    *arrays, mask = batch(5)
    for grad in jax.grad(lambda *a: loss(*a, mask).loss, argnums=(1, 2))(*arrays):
        np.testing.assert_array_equal(grad, np.zeros((B, T)))


@pytest.mark.parametrize("loss", CASES.values(), ids=CASES)
def test_nothing_sampled_is_no_loss(loss):
    *arrays, _ = batch(5)
    none = np.zeros((B, T), bool)
    value, grad = jax.value_and_grad(lambda *a: loss(*a, none).loss)(*arrays)
    assert value == 0.0
    np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize("loss", CASES.values(), ids=CASES)
def test_eight_devices_equal_one(loss):
    args = junked(*batch(6))

    def grad(axis_name, *args):
        def share(x, *rest):
            out = loss(x, *rest, axis_name=axis_name)
            return out.loss, out.metrics

        grad, metrics = jax.grad(share, has_aux=True)(*args)
        return grad, metrics if axis_name is None else jax.lax.psum(metrics, axis_name)

    shards = [x.reshape(8, B // 8, T) for x in args]
    sharded = jax.pmap(lambda *a: grad("data", *a), axis_name="data")(*shards)
    expected, metrics = jax.jit(lambda *a: grad(None, *a))(*args)
    found = np.asarray(sharded[0]).reshape(B, T)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    for name in metrics:
        np.testing.assert_allclose(
            sharded[1][name], np.full(8, metrics[name]), rtol=1e-4
        )
