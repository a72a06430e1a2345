"""Tables trained by OREO's losses reach the soft Bellman equation's solution."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import oreo


class Tree:
    """All action sequences of a tree, with their states numbered level by level."""

    def __init__(self, reference, rewards, beta):
        """`reference[d]` are logits [A^d, A], `rewards` those of leaves [A^depth]."""
        self.reference = [jax.nn.log_softmax(jnp.asarray(r, float)) for r in reference]
        self.rewards, self.beta = np.asarray(rewards, float).ravel(), beta
        depth, count = len(reference), len(reference[0][0])
        paths = np.array(list(itertools.product(range(count), repeat=depth)))
        states = np.zeros_like(paths)
        for d in range(1, depth):
            states[:, d] = states[:, d - 1] * count + paths[:, d - 1]
        self.paths, self.states = paths, states
        log_q = sum(self.reference[d][states[:, d], paths[:, d]] for d in range(depth))
        self.weight = np.exp(np.asarray(log_q))

    def solution(self):
        """V and log pi of each level, from the leaves up."""
        worth, values, policies = jnp.asarray(self.rewards), [], []
        for reference in reversed(self.reference):
            q = worth.reshape(reference.shape)
            worth = self.beta * jax.nn.logsumexp(reference + q / self.beta, axis=1)
            values.insert(0, worth)
            policies.insert(0, reference + (q - worth[:, None]) / self.beta)
        return values, policies

    def rows(self, tables):
        """Entries of tables along every path, [paths, depth]."""
        picked = [
            table[self.states[:, d]] if table.ndim == 1
            else table[self.states[:, d], self.paths[:, d]]
            for d, table in enumerate(tables)
        ]  # fmt: skip
        return jnp.stack(picked, axis=1)

    def train(self, level, loss, updates, learning_rate, steps=None):
        """Gradient descent on w delta, of all paths at once, as often as they come.

        `steps` are the numbers of the steps that tokens belong to, by default their
        own.
        """
        rows, depth = self.paths.shape
        mask = jnp.ones(self.paths.shape, bool)
        steps = jnp.arange(depth) if steps is None else jnp.asarray(steps)
        step = jnp.broadcast_to(steps, mask.shape)
        reference = self.rows(self.reference)
        reward = jnp.asarray(self.rewards)

        def total(one, level, logits, values):
            """Sum over paths of their weight and their own loss, halved."""
            policy = [jax.nn.log_softmax(table) for table in logits]
            log_prob, value = self.rows(policy), self.rows(values)

            def of_path(i):
                terms = level(
                    log_prob[i][None], reference[i][None], value[i][None],
                    mask[i][None], step[i][None],
                )  # fmt: skip
                return one(terms, reward[i][None], self.beta).loss

            each = jax.vmap(of_path)(jnp.arange(rows))
            return 0.5 * jnp.sum(jnp.asarray(self.weight) * each)

        @jax.jit
        def update(_, tables):
            logits, values = tables
            # As the agent has it: V is learnt of beginnings of steps, or of all tokens.
            seen = oreo.by_step if level is oreo.by_step else oreo.by_token
            of_values = jax.grad(lambda v: total(oreo.critic_loss, seen, logits, v))(
                values
            )
            of_logits = jax.grad(lambda x: total(loss, level, x, values))(logits)
            down = lambda x, g: x - learning_rate * g  # noqa: E731
            return jax.tree.map(down, logits, of_logits), jax.tree.map(
                down, values, of_values
            )

        start = (self.reference, [jnp.zeros(len(r)) for r in self.reference])
        logits, values = jax.lax.fori_loop(0, updates, update, start)
        return values, [jax.nn.log_softmax(table) for table in logits]


SMALL = Tree(
    reference=[
        [[0.3, -0.2, 0.1]],
        [[0.0, 0.5, -0.5], [0.2, 0.1, 0.0], [-0.3, 0.3, 0.6]],
    ],
    rewards=[[1, 0, 0], [0, 0, 0], [1, 1, 0]],
    beta=0.5,
)


def test_the_small_tree_is_solved_as_published():
    """After 500 updates: V is off by 3e-6 then, pi by 1.1e-5."""
    values, policies = SMALL.train(oreo.by_token, oreo.actor_loss, 500, 2.0)
    np.testing.assert_allclose(values[0], [0.542884], atol=5e-6)
    np.testing.assert_allclose(values[1], [0.543049, 0, 0.742367], atol=5e-6)
    np.testing.assert_allclose(
        np.exp(policies[0]), [[0.41246, 0.08444, 0.50310]], atol=1.5e-5
    )
    np.testing.assert_allclose(
        np.exp(policies[1]),
        [
            [0.76616, 0.17095, 0.06289],
            [0.36717, 0.33222, 0.30061],
            [0.31696, 0.57754, 0.10551],
        ],
        atol=1.5e-5,
    )


@pytest.mark.parametrize(
    ("level", "loss"),
    [
        (oreo.by_answer, oreo.actor_loss),
        (oreo.by_token, oreo.full_gradient_actor_loss),
        (oreo.by_token, oreo.one_step_actor_loss),
    ],
)
def test_variants_reach_the_same_point(level, loss):
    values, policies = SMALL.train(level, loss, 3000, 1.0)
    for found, expected in zip(
        values + policies, sum(SMALL.solution(), []), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_steps_of_several_tokens_reach_the_same_point():
    """Steps of two tokens and of one; V is learnt where they begin, and there alone."""
    rng = np.random.default_rng(5)
    reference = [rng.normal(size=(2**d, 2)) for d in range(3)]
    tree = Tree(reference, [1, 0, 0, 1, 0, 0, 1, 1], beta=0.5)
    values, policies = tree.train(
        oreo.by_step, oreo.actor_loss, 1000, 2.0, steps=[0, 0, 1]
    )
    worth, best = tree.solution()
    for found, expected in zip(policies, best, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    for begins in (0, 2):
        np.testing.assert_allclose(values[begins], worth[begins], atol=2e-5)
    assert not np.any(values[1]) and np.all(worth[1])  # within the first step


def test_a_larger_random_tree_is_solved():
    """Depth 4, three actions, one leaf in ten rewarded."""
    rng = np.random.default_rng(3)
    reference = [rng.normal(size=(3**d, 3)) for d in range(4)]
    rewards = (rng.random(3**4) < 0.1).astype(float)
    assert 0 < rewards.sum() < 20
    tree = Tree(reference, rewards, beta=0.5)
    # Any log that has every path will do: here all come equally often.
    tree.weight = np.full(len(tree.paths), 1 / len(tree.paths))
    values, policies = tree.train(oreo.by_token, oreo.actor_loss, 12_000, 7.0)
    for found, expected in zip(
        values + policies, sum(tree.solution(), []), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)
