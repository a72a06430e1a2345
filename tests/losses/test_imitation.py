"""The language model's loss, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.losses.imitation import next_token_loss


def test_three_tokens_and_a_padded_row_by_hand():
    # Row 0: tokens 1, 0, 2. After the first, p = (1/2, 1/4, 1/4): token 0 costs ln 2.
    # After the second, p = (1/4, 1/4, 1/2): token 2 costs ln 2. Row 1: tokens 2, 1
    # and padding: after the first, p = (1/4, 1/4, 1/2): token 1 costs ln 4.
    # Mean over three predictions: (ln 2 + ln 2 + ln 4) / 3 = 4/3 ln 2.
    a, b = np.log([0.5, 0.25, 0.25]), np.log([0.25, 0.25, 0.5])
    junk = np.full(3, np.nan)
    logits = jnp.asarray([[a, b, junk], [b, junk, junk]], jnp.float32)
    ids = jnp.array([[1, 0, 2], [2, 1, 0]])
    mask = jnp.array([[True, True, True], [True, True, False]])
    loss, grad = jax.value_and_grad(next_token_loss)(logits, ids, mask)
    np.testing.assert_allclose(loss, 4 / 3 * np.log(2), rtol=1e-6)
    # dL/dlogits = (p - one-hot) / 3 where a prediction is real, 0 elsewhere.
    np.testing.assert_allclose(grad[0, 0], [-0.5 / 3, 0.25 / 3, 0.25 / 3], rtol=1e-5)
    np.testing.assert_allclose(grad[1, 0], [0.25 / 3, -0.75 / 3, 0.5 / 3], rtol=1e-5)
    np.testing.assert_array_equal(grad[0, 2], 0.0)
    np.testing.assert_array_equal(grad[1, 1:], 0.0)
