"""Log-probabilities of tokens in chunks against logits of all tokens at once.

Rows of `python -m benchmarks.losses`. A vocabulary of 151,936 and 4,096 tokens, forward
and backward, at a width that a CPU can do. Memory is what XLA says the compiled program
needs beside inputs and outputs, which the gradients are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import Row, growth, interleave
from rljax.losses import token_logprob

TOKENS, WIDTH, VOCABULARY = 4096, 128, 151_936
MOST_MEMORY, MOST_TIME, MOST_LOSS_TIME = 0.1, 1.3, 1.1


def drawn() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Hidden states, unembedding, tokens, and a weight for each token."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    matrix = 0.1 * rng.standard_normal((WIDTH, VOCABULARY)).astype(np.float32)
    ids = rng.integers(0, VOCABULARY, TOKENS).astype(np.int32)
    weight = rng.random(TOKENS).astype(np.float32)
    return tuple(map(jnp.asarray, (hidden, matrix, ids, weight)))  # pyrefly: ignore


def naive(hidden, matrix, ids, weight):
    """Gather minus logsumexp."""
    logits = hidden @ matrix
    said = jnp.take_along_axis(logits, ids[:, None], axis=-1)[:, 0]
    return jnp.sum(weight * (said - jax.nn.logsumexp(logits, axis=-1)))


def scores(hidden, matrix, ids, weight):
    """`token_scores`, recomputed for the gradient."""
    found = token_logprob.token_scores(hidden, matrix, ids)
    return jnp.sum(weight * found.log_prob)


def _per_token(found, weight):
    return weight * found.log_prob, ()


def chunked(hidden, matrix, ids, weight):
    """`chunked_loss`, the gradient in the forward pass."""
    return token_logprob.chunked_loss(hidden, matrix, ids, _per_token, weight)[0]


def rows(rounds: int) -> list[Row]:
    """Time and memory of both against the naive one, in turns."""
    arguments = drawn()
    losses = {"naive": naive, "scores": scores, "chunked": chunked}
    programs = {name: _compile(loss, arguments) for name, loss in losses.items()}
    grads = {name: program(*arguments)[1] for name, program in programs.items()}
    for name in ("scores", "chunked"):
        for mine, other in zip(grads[name], grads["naive"], strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-5, err_msg=name)
    del grads
    runs = {name: _call(program, arguments) for name, program in programs.items()}
    times = interleave(runs, rounds, max_seconds=300)
    found = []
    for name, ours, most in (
        ("token_logprobs", "scores", MOST_TIME),
        ("chunked_loss", "chunked", MOST_LOSS_TIME),
    ):
        mine, other = (_temporaries(programs[each]) for each in (ours, "naive"))
        found.append(
            Row(
                name=f"{name}_memory",
                ours=mine / 1e6,
                peer=other / 1e6,
                unit="MB",
                ratio=mine / other,
                target=MOST_MEMORY,
                better="lower",
            )  # fmt: skip
        )
        found.append(growth(f"{name}_time", times, ours, "naive", most))
    return found


def _compile(loss: Callable, arguments: tuple) -> Any:
    grad = jax.value_and_grad(loss, argnums=(0, 1))
    return jax.jit(grad).lower(*arguments).compile()


def _call(program: Any, arguments: tuple) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(program(*arguments))


def _temporaries(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes
