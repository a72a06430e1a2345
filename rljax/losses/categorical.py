"""Distributions over the commands of a state, given as log-probabilities.

A command that the state does not admit has log-probability -inf. Everything here is
finite in value and gradient whatever such an entry's other arrays hold. NaN in a
log-probability is an error of the model and stays NaN, so that it is seen.
Shape letters: B batch, A commands.
"""

import chex
import jax
import jax.numpy as jnp

from rljax.losses.masked import widen


def admit(
    log_pi: jax.Array, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Which commands count, and log-probabilities that are safe to multiply.

    Args:
      log_pi: normalised log-probabilities, float [..., A]; -inf rules a command out.
      mask: whether the row is real, bool [...]; a row that is not admits nothing.

    Returns:
      `admitted` bool [..., A], and `log_pi` float32 (or wider) [..., A], 0 where not
      admitted.
    """
    admitted = log_pi != -jnp.inf
    if mask is not None:
        admitted &= mask[..., None]
    # -inf (or the NaN of a padding row) is replaced before anything multiplies it: a
    # `where` around the product alone would send 0 * inf = NaN into the gradient.
    return admitted, jnp.where(admitted, widen(log_pi), 0.0)


def expectation(x: jax.Array, log_pi: jax.Array, admitted: jax.Array) -> jax.Array:
    """Sum of pi(a) x(a) over the admitted commands.

    Args:
      x: float [..., A]. May be anything where not admitted.
      log_pi: from `admit`, float [..., A].
      admitted: from `admit`, bool [..., A].

    Returns:
      Float [...]; 0 where none is admitted.
    """
    # `where=` in the sum, and no masked `pi`: XLA then keeps one array fewer alive. An
    # `x` of NaN sends NaN back to a `log_pi` ruled out, where `admit` stops it.
    return jnp.sum(jnp.exp(log_pi) * x, axis=-1, where=admitted)


def entropy(log_pi: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Entropy in nats, H = - sum_a pi(a) log pi(a).

    Args:
      log_pi: see `admit`, float [..., A].
      mask: whether the row is real, bool [...].

    Returns:
      Entropies, float32 [...]; 0 where masked or where no command is admitted.
    """
    admitted, log_pi = admit(log_pi, mask)
    return -expectation(log_pi, log_pi, admitted)


def kl_divergence(
    log_pi: jax.Array, log_reference: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """How far `pi` is from a reference, KL = sum_a pi(a) [log pi(a) - log ref(a)].

    Exact over the commands, not sampled. A command admitted under `pi` and ruled out
    under the reference makes it infinite, as it should.

    Args:
      log_pi: see `admit`, float [..., A].
      log_reference: the same commands under the reference, float [..., A]. May be
        anything where `log_pi` is -inf.
      mask: whether the row is real, bool [...].

    Returns:
      Divergences in nats, float32 [...]; 0 where masked.
    """
    chex.assert_equal_shape([log_pi, log_reference])
    admitted, log_pi = admit(log_pi, mask)
    return expectation(log_pi - widen(log_reference), log_pi, admitted)


def num_admitted(log_pi: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """How many commands each row admits, |A|, float32 [...]; 0 where masked.

    Args:
      log_pi: see `admit`, float [..., A].
      mask: whether the row is real, bool [...].
    """
    return jnp.sum(admit(log_pi, mask)[0], axis=-1, dtype=jnp.float32)
