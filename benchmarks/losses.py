"""Loss kernels against the same maths from rlax parts and from vmapped single items.

    python -m benchmarks.losses [--json=FILE]

B = 4,096 states of up to A = 42 commands, forward and backward, one jitted program
each, called in turns. Time is the median over the turns of (best peer / ours);
temporaries are what XLA says the compiled program needs beside inputs and outputs.
All programs get the same scores, masks and values, and must give the same gradient.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import losses_tokens
from benchmarks.common import Row, finish, interleave, parse_arguments, speedup
from rljax.losses import sac
from rljax.losses.masked import masked_mean
from rljax.losses.soft_bellman import soft_bellman_loss, soft_value

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # rlax warns of its own names, tfp of jax's
    import rlax

B, A = 4096, 42
ALPHA = 0.05
CALLS = 10  # a turn; one call is a millisecond, too short to time alone


class Batch(NamedTuple):
    scores: jax.Array  # [B, A], summed log-probabilities of the commands
    admitted: jax.Array  # bool [B, A]
    q: jax.Array  # [B, A]
    mask: jax.Array  # bool [B]
    a_tm1: jax.Array  # int [B]
    r_t: jax.Array  # [B]
    discount_t: jax.Array  # [B]
    scores_t: jax.Array  # [B, A]
    q_t: jax.Array  # [B, A]


def make_batch() -> Batch:
    """Random states, a random share of the commands of each admitted."""
    rng = np.random.default_rng(0)
    admitted = rng.random((B, A)) < rng.random((B, 1))
    admitted[:, 0] = True

    def normal() -> Any:
        return rng.standard_normal((B, A)).astype(np.float32)

    fields: dict[str, Any] = dict(
        scores=normal(),
        admitted=admitted,
        q=normal(),
        mask=rng.random(B) < 0.9,
        a_tm1=np.argmax(admitted * rng.random((B, A)), axis=1).astype(np.int32),
        r_t=rng.random(B).astype(np.float32),
        discount_t=rng.choice([0.0, 0.9], B).astype(np.float32),
        scores_t=normal(),
        q_t=normal(),
    )
    return Batch(**jax.tree.map(jnp.asarray, fields))


def log_policy(scores, admitted):
    return jax.nn.log_softmax(jnp.where(admitted, scores, -jnp.inf))


def actor_ours(scores, batch):
    log_pi = log_policy(scores, batch.admitted)
    return sac.policy_loss(log_pi, batch.q, ALPHA, batch.mask).loss


def actor_vmap(scores, batch):
    def one(scores, admitted, q):
        log_pi = log_policy(scores, admitted)
        log_pi = jnp.where(admitted, log_pi, 0.0)
        pi = jnp.where(admitted, jnp.exp(log_pi), 0.0)
        return jnp.dot(pi, ALPHA * log_pi - q)

    loss = jax.vmap(one)(scores, batch.admitted, batch.q)
    return masked_mean(loss, batch.mask)


def actor_rlax(scores, batch):
    """rlax takes means without a mask, hence one state at a time."""
    scores = jnp.where(batch.admitted, scores, -1e9)

    def one(scores, q):
        entropy = rlax.entropy_loss(scores[None], jnp.ones(1))
        return rlax.qpg_loss(scores[None], q[None]) + ALPHA * entropy

    return masked_mean(jax.vmap(one)(scores, batch.q), batch.mask)


def actor_rlax_batch(scores, batch):
    """A padding row of equal scores and no Q sends no gradient; the mean is mended."""
    scores = jnp.where(batch.admitted, scores, -1e9)
    scores = jnp.where(batch.mask[:, None], scores, 0.0)
    q = jnp.where(batch.mask[:, None], batch.q, 0.0)
    weight = batch.mask.astype(jnp.float32)
    loss = rlax.qpg_loss(scores, q) + ALPHA * rlax.entropy_loss(scores, weight)
    return loss * (B / jnp.sum(weight))


def bellman_ours(q, batch):
    v_t = soft_value(batch.q_t, log_policy(batch.scores_t, batch.admitted), ALPHA)
    return soft_bellman_loss(
        q, batch.a_tm1, batch.r_t, batch.discount_t, v_t, batch.mask
    ).loss


def bellman_vmap(q, batch):
    def one(q, a_tm1, r_t, discount_t, q_t, scores_t, admitted):
        log_pi = jnp.where(admitted, log_policy(scores_t, admitted), 0.0)
        pi = jnp.where(admitted, jnp.exp(log_pi), 0.0)
        target = r_t + discount_t * jnp.dot(pi, q_t - ALPHA * log_pi)
        return jnp.square(jax.lax.stop_gradient(target) - q[a_tm1])

    loss = jax.vmap(one)(
        q, batch.a_tm1, batch.r_t, batch.discount_t,
        batch.q_t, batch.scores_t, batch.admitted,
    )  # fmt: skip
    return masked_mean(loss, batch.mask)


def bellman_rlax(q, batch):
    scores = jnp.where(batch.admitted, batch.scores_t, -1e9)
    policy = rlax.softmax()
    entropy = jax.vmap(policy.entropy)(scores)
    error = jax.vmap(rlax.expected_sarsa)(
        q, batch.a_tm1, batch.r_t + batch.discount_t * ALPHA * entropy,
        batch.discount_t, batch.q_t, jax.vmap(policy.probs)(scores),
    )  # fmt: skip
    return masked_mean(jnp.square(error), batch.mask)


def compile_all(losses: dict[str, Callable], *args) -> dict[str, Any]:
    """Value-and-gradient programs, once their gradients are seen to agree."""
    programs = {
        name: jax.jit(jax.value_and_grad(loss)).lower(*args).compile()
        for name, loss in losses.items()
    }
    grads = {name: np.asarray(program(*args)[1]) for name, program in programs.items()}
    for name, grad in grads.items():
        np.testing.assert_allclose(
            grad, grads["ours"], rtol=1e-3, atol=1e-8, err_msg=name
        )
    return programs


def repeat(program: Callable, args: Sequence) -> Callable[[], Any]:
    def run():
        for _ in range(CALLS):
            jax.block_until_ready(program(*args))

    return run


def compare(row: str, losses: dict[str, Callable], rounds: int, *args) -> list[Row]:
    """One row for time and one for temporaries, each against the best peer."""
    programs = compile_all(losses, *args)
    runs = {name: repeat(program, args) for name, program in programs.items()}
    times = {k: v / CALLS for k, v in interleave(runs, rounds).items()}
    space = {
        name: program.memory_analysis().temp_size_in_bytes
        for name, program in programs.items()
    }
    for name in losses:
        middle = 1e3 * np.median(times[name])
        print(f"  {row:13} {name:11} {middle:8.3f} ms {space[name]:>12,} bytes")
    peers = [name for name in losses if name != "ours"]
    best = min(peers, key=lambda name: np.median(times[name]))
    least = min(space[name] for name in peers)
    temporaries = Row(
        name=f"{row}_temporaries",
        ours=space["ours"],
        peer=least,
        unit="bytes",
        ratio=space["ours"] / least,
        target=1.0,
        better="lower",
    )
    return [speedup(row, times, "ours", best, target=1.0), temporaries]


def main() -> None:
    arguments = parse_arguments("Losses against rlax parts and vmapped single items.")
    rounds = 10 * arguments.rounds
    warnings.simplefilter("ignore", PendingDeprecationWarning)
    batch = make_batch()
    actor = {
        "ours": actor_ours,
        "rlax": actor_rlax,
        "rlax_batch": actor_rlax_batch,
        "vmap": actor_vmap,
    }
    bellman = {"ours": bellman_ours, "rlax": bellman_rlax, "vmap": bellman_vmap}
    rows = compare("soft_bellman", bellman, rounds, batch.q, batch)
    rows += compare("sac_actor", actor, rounds, batch.scores, batch)
    rows += losses_tokens.rows(arguments.rounds)
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
