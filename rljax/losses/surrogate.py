"""The clipped surrogate of tokens: PPO, GRPO, Dr.GRPO, DAPO and GSPO are its settings.

    L = - sum_bt weight_bt min( w_bt A_bt, clip(w_bt, 1 - low, 1 + high) A_bt )

What differs between them is passed in: the ratio w (`token_ratio`, `sequence_ratio`),
the weights (`token_mean`, `sequence_mean`, `fixed_length`), the clip and the advantages
(`token_returns.token_gae`, or those of `groups.py`). A mask says which tokens were
sampled in this rollout: a prompt and a replayed prefix are no part of it, and what
stands there moves neither loss nor gradient.

`surrogate_loss` takes log-probabilities; `per_token` is the same loss for
`token_logprob.chunked_loss`, which makes each logit once.

Source: Schulman et al., 2017 (arXiv:1707.06347), equation 7. Shape letters: B answers,
T tokens. Padding (mask False) may hold anything.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax.losses.masked import masked_count, widen
from rljax.losses.policy_gradient import PPOLoss, clipped_gain
from rljax.losses.token_logprob import PerToken, Scores
from rljax.types import Metrics

# (log_p, log_p_old, mask [B, T]) -> log w of each token [B, T], 0 where masked.
Ratio = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# (mask [B, T], axis_name) -> float32 [B, T], 0 where masked.
Weights = Callable[[jax.Array, str | None], jax.Array]


def token_ratio(log_p: jax.Array, log_p_old: jax.Array, mask: jax.Array) -> jax.Array:
    """w_t = p(a_t) / p_old(a_t), each token by itself.

    Args:
      log_p: of the tokens, float [B, T].
      log_p_old: the same under the policy that sampled, float [B, T].
      mask: bool [B, T].

    Returns:
      log w, float32 [B, T].
    """
    return jnp.where(mask, widen(log_p) - widen(log_p_old), 0.0)


def sequence_ratio(
    log_p: jax.Array, log_p_old: jax.Array, mask: jax.Array
) -> jax.Array:
    """w = (p(y) / p_old(y))^(1/|y|), one ratio for all tokens of an answer.

    With `sequence_mean` and one advantage an answer this is GSPO: Zheng et al., 2025
    (arXiv:2507.18071), equations 5 and 7. Args and Returns as of `token_ratio`.
    """
    log_ratio = token_ratio(log_p, log_p_old, mask)
    mean = jnp.sum(log_ratio, axis=1, keepdims=True) / _lengths(mask)
    return jnp.where(mask, mean, 0.0)


def token_mean(mask: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Every token of the batch counts alike: 1 / sum_b |y_b|, over all devices.

    Args:
      mask: bool [B, T].
      axis_name: mapped axis to share the count over, if there is one.

    Returns:
      float32 [B, T], 0 where masked.
    """
    return mask / jnp.maximum(masked_count(mask, axis_name), 1.0)


def sequence_mean(mask: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Every answer counts alike, whatever its length: 1 / (B |y_b|).

    GRPO's own mean: Shao et al., 2024 (arXiv:2402.03300), equation 3. B counts answers
    with a token. Args and Returns as of `token_mean`.
    """
    return mask / (_lengths(mask) * _answers(mask, axis_name))


def fixed_length(length: int) -> Weights:
    """Weights 1 / (B length): neither the batch's lengths nor an answer's own count.

    Dr.GRPO's, which takes the most tokens an answer may have: Liu et al., 2025
    (arXiv:2503.20783), section 3.2.

    Args:
      length: at least 1.

    Raises:
      ValueError: if it is less.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")

    def weights(mask: jax.Array, axis_name: str | None = None) -> jax.Array:
        return mask / (length * _answers(mask, axis_name))

    return weights


def surrogate_loss(
    log_p: jax.Array,
    log_p_old: jax.Array,
    advantage: jax.Array,
    mask: jax.Array,
    *,
    low: float = 0.2,
    high: float = 0.2,
    ratio: Ratio = token_ratio,
    weights: Weights = token_mean,
    axis_name: str | None = None,
) -> PPOLoss:
    """The loss at the top of the file, with the ratio and the weights given.

    Metrics, all over tokens: `train/approx_kl`, the mean of w - 1 - log w,
    `train/clip_fraction`, the share of ratios outside the clip, and `train/log_ratio`,
    the mean of |log w|, which is 0 at the policy that sampled.

    Args:
      log_p: log-probability of the tokens, float [B, T].
      log_p_old: the same under the policy that sampled, a constant, float [B, T].
      advantage: a constant, float [B, T], or [B, 1] where the tokens of an answer share
        one.
      mask: whether the token was sampled in this rollout, bool [B, T].
      low: of the clip, see `policy_gradient.clipped_gain`.
      high: of the clip; larger than `low` for clip-higher.
      ratio: w.
      weights: how tokens are weighed against each other.
      axis_name: see `masked_mean`.

    Returns:
      This device's share of the loss, and scalar metrics.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    known = constants(log_p_old, advantage, mask, weights, axis_name)
    chex.assert_equal_shape([log_p, mask])
    log_ratio = ratio(log_p, known.log_p_old, mask)
    chex.assert_equal_shape([log_ratio, mask])
    each, metrics = _each(log_ratio, known, low, high)
    loss = jnp.sum(each)
    totals = {name: jnp.sum(x) for name, x in metrics.items()}
    return PPOLoss(loss, {"train/policy_loss": loss} | totals)


class Constants(NamedTuple):
    """What is known of tokens before their log-probabilities are; [B, T] each."""

    log_p_old: jax.Array  # float
    advantage: jax.Array  # float
    weight: jax.Array  # float32, in the loss; 0 where masked
    share: jax.Array  # float32, in means over tokens; 0 where masked


def constants(
    log_p_old: jax.Array,
    advantage: jax.Array,
    mask: jax.Array,
    weights: Weights = token_mean,
    axis_name: str | None = None,
) -> Constants:
    """What `per_token` reads beside the scores, without gradients.

    Args:
      log_p_old: as of `surrogate_loss`.
      advantage: as of `surrogate_loss`.
      mask: as of `surrogate_loss`.
      weights: as of `surrogate_loss`.
      axis_name: see `masked_mean`.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    _check(log_p_old, log_p_old, mask)
    chex.assert_shape(advantage, (len(mask), {1, mask.shape[1]}))
    chex.assert_type(advantage, float)
    weight = weights(mask, axis_name)
    chex.assert_equal_shape([weight, mask])
    spread = jnp.where(mask, widen(advantage), 0.0)
    found = Constants(log_p_old, spread, weight, token_mean(mask, axis_name))
    return jax.lax.stop_gradient(found)


def per_token(
    low: float = 0.2,
    high: float = 0.2,
    kl_weight: float = 0.0,
    entropy_weight: float = 0.0,
) -> PerToken:
    """The loss of each token by itself, for `token_logprob.chunked_loss`.

        weight_t ( - min( w A, clip(w) A ) + kl_weight KL_t - entropy_weight H_t )

    KL is that of the whole vocabulary from the reference that `chunked_loss` is given,
    `aux` there are `constants`, and its sums are the metrics of `surrogate_loss`. The
    ratio is the token's; for GSPO give `gspo_log_p_old` in place of `log_p_old`.

    Args:
      low: of the clip.
      high: of the clip.
      kl_weight: of the divergence from the reference.
      entropy_weight: of the entropy.
    """

    def loss(scores: Scores, known: Constants) -> tuple[jax.Array, Metrics]:
        real = known.share > 0
        log_ratio = token_ratio(scores.log_prob, known.log_p_old, real)
        each, metrics = _each(log_ratio, known, low, high)
        if kl_weight:
            each += kl_weight * known.weight * scores.kl
        if entropy_weight:
            each -= entropy_weight * known.weight * scores.entropy
        return each, metrics

    return loss


class Drawn(NamedTuple):
    """What is known of tokens that the present policy has drawn; [B, T] each."""

    known: Constants  # log p_old is the sampler's own, which is but compared
    said: jax.Array  # float32, in means over all that was drawn; 0 where nothing was


def per_token_drawn(
    low: float = 0.2,
    high: float = 0.2,
    kl_weight: float = 0.0,
    entropy_weight: float = 0.0,
) -> PerToken:
    """`per_token` where the policy that sampled is the present one, and tells more.

        log p_old = sg[log p]

    So every ratio is 1, and nobody need read the answers before. `aux` is `Drawn`. The
    metrics are those of `per_token` and, over all tokens that were drawn, learnt from
    or not, `rollout/entropy`, `rollout/sampler_gap`, the mean of |log p - that of the
    sampler|, and where it weighs anything `rollout/kl`.

    Args:
      low: see `per_token`.
      high: see `per_token`.
      kl_weight: see `per_token`.
      entropy_weight: see `per_token`.
    """
    of_known = per_token(low, high, kl_weight, entropy_weight)

    def loss(scores: Scores, drawn: Drawn) -> tuple[jax.Array, Metrics]:
        now = jax.lax.stop_gradient(scores.log_prob)
        each, metrics = of_known(scores, drawn.known._replace(log_p_old=now))
        told = {
            "rollout/entropy": scores.entropy,
            "rollout/sampler_gap": jnp.abs(now - drawn.known.log_p_old),
        }
        if kl_weight:  # else the reference was not read
            told["rollout/kl"] = scores.kl
        real = drawn.said > 0
        return each, metrics | {
            name: drawn.said * jnp.where(real, x, 0.0) for name, x in told.items()
        }

    return loss


def gspo_log_p_old(
    log_p: jax.Array, log_p_old: jax.Array, mask: jax.Array
) -> jax.Array:
    """What makes a token's ratio that of its answer, with the same gradient.

        log p_old' = sg[log p] - log w,    w = (p(y) / p_old(y))^(1/|y|)

    With one advantage and one weight for the tokens of an answer, the loss of tokens
    with p_old' is that with `sequence_ratio`: arXiv:2507.18071, section 4.3.

    Args:
      log_p: of the tokens under the present parameters, float [B, T].
      log_p_old: under the policy that sampled, float [B, T].
      mask: bool [B, T].

    Returns:
      float32 [B, T], a constant.
    """
    log_ratio = sequence_ratio(log_p, log_p_old, mask)
    return jax.lax.stop_gradient(jnp.where(mask, widen(log_p) - log_ratio, 0.0))


def _each(
    log_ratio: jax.Array, known: Constants, low: float, high: float
) -> tuple[jax.Array, Metrics]:
    """Each token's part of the loss and of the metrics."""
    each = -known.weight * clipped_gain(log_ratio, known.advantage, low, high)
    moved = jax.lax.stop_gradient(log_ratio)
    change = jnp.expm1(moved)
    outside = (change > high) | (change < -low)
    metrics = {
        "train/approx_kl": known.share * (change - moved),
        "train/clip_fraction": known.share * outside,
        "train/log_ratio": known.share * jnp.abs(moved),
    }
    return each, metrics


def reference_kl(
    log_p: jax.Array,
    log_p_ref: jax.Array,
    mask: jax.Array,
    weights: Weights = token_mean,
    axis_name: str | None = None,
) -> jax.Array:
    """Estimate of KL(pi || pi_ref) from the sampled tokens, never negative.

        sum_bt weight_bt (q/p - log(q/p) - 1)

    GRPO's penalty, on the loss's side: arXiv:2402.03300, equation 4. The divergence
    over the whole vocabulary, `token_logprob.Scores.kl`, has no noise of sampling.

    Args:
      log_p: log pi of the tokens, float [B, T].
      log_p_ref: log pi_ref, a constant, float [B, T].
      mask: bool [B, T].
      weights: those of the policy's loss.
      axis_name: see `masked_mean`.

    Returns:
      This device's share, float32 [].

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    _check(log_p, log_p_ref, mask)
    change = token_ratio(jax.lax.stop_gradient(log_p_ref), log_p, mask)
    return jnp.sum(weights(mask, axis_name) * (jnp.expm1(change) - change))


def _check(log_p, other, mask) -> None:
    chex.assert_rank(log_p, 2)
    chex.assert_equal_shape([log_p, other, mask])
    chex.assert_type([log_p, other, mask], [float, float, bool])


def _lengths(mask: jax.Array) -> jax.Array:
    """|y|, at least 1, float32 [B, 1]."""
    return jnp.maximum(jnp.sum(mask, axis=1, keepdims=True, dtype=jnp.float32), 1.0)


def _answers(mask: jax.Array, axis_name: str | None) -> jax.Array:
    """Answers that have a token, over all devices and at least 1, float32 []."""
    return jnp.maximum(masked_count(jnp.any(mask, axis=1), axis_name), 1.0)
