"""Heads on hidden states: state values and command values."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


class Head(nn.Module):
    """One scalar a hidden state, by an MLP with ReLU.

    Give it the last prompt token for V(s), or a command's nodes for Q(s, a) (how many
    of them: `policy.score.q_of_path`, `q_of_last_node`). The smaller `final_std`, the
    nearer to zero the first values (a logit's: to one half). It works in float32.
    """

    widths: Sequence[int]  # of the inner layers
    final_std: float = 0.01  # of the last layer's weights, over sqrt(fan-in)
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Values of hidden states.

        Args:
          hidden: [..., D].

        Returns:
          float32 [...].
        """
        # One matrix of rows: on CPU the gradient of a product over more axes is slow.
        x = hidden.reshape(-1, hidden.shape[-1])
        x = x.astype(jnp.promote_types(hidden.dtype, jnp.float32))
        dtype = jnp.dtype(self.param_dtype)
        for width in self.widths:
            x = nn.Dense(
                width, kernel_init=nn.initializers.he_normal(), param_dtype=dtype
            )(x)
            x = nn.relu(x)
        init = nn.initializers.variance_scaling(
            self.final_std**2, "fan_in", "truncated_normal"
        )
        x = nn.Dense(1, kernel_init=init, param_dtype=dtype)(x)
        return x.reshape(hidden.shape[:-1])
