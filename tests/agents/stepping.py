"""An agent's first update against Adam's step on gradients of a plain loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def assert_first_step(told, params, new, grads, rates) -> None:
    """Norms and steps of all networks; where a gradient is near 0 its sign is noise.

    Args:
      told: metrics of the update.
      params: of the networks before it, by name.
      new: after it.
      grads: of the plain loss.
      rates: learning rate of each network.
    """
    for name, rate in rates.items():
        adam = optax.adam(rate, b1=0.9, b2=0.95)
        step, _ = adam.update(grads[name], adam.init(grads[name]))
        norm = "train" if name == "actor" else name
        np.testing.assert_allclose(
            told[f"{norm}/grad_norm"], optax.tree.norm(grads[name]), rtol=1e-4
        )
        sure = jax.tree.map(lambda g: jnp.abs(g) > 1e-5, grads[name])
        expected = optax.apply_updates(params[name], step)
        jax.tree.map(
            lambda a, b, s: np.testing.assert_allclose(a[s], b[s], atol=2e-5),
            new[name], expected, sure,
        )  # fmt: skip
