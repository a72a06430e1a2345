"""Attention of queries in order against attention of all pairs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import attention, block
from rljax.policy import texts
from rljax.types import Packed
from tests.models.test_decoder import PLAIN, V, apply, random_params

# Queries, keys, and the products of pairs that are left.
CASES = {
    "whole": (63, 63, 63 * 63),  # too few to be parted
    "two": (150, 150, 75 * 75 + 75 * 150),
    "four": (256, 256, 64 * (64 + 128 + 192 + 256)),
    "uneven": (259, 259, 65 * 65 + 65 * 130 + 65 * 195 + 64 * 259),
    "after_others": (130, 170, 65 * 105 + 65 * 170),
}


def inputs(queries, keys, heads=4, kv_heads=2, width=8, rows=2):
    rng = np.random.default_rng(0)
    shapes = ((queries, heads), (keys, kv_heads), (keys, kv_heads))
    q, k, v = (rng.standard_normal((rows, *some, width)) for some in shapes)
    last = keys - queries + np.arange(queries)[:, None]
    some = rng.random((rows, queries, keys)) < 0.3
    mask = (np.arange(keys) <= last) & (some | (np.arange(keys) == last))
    return (*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), jnp.asarray(mask))


def products(run, *args):
    """Scores that a function computes: elements of all products with keys."""
    traced = jax.make_jaxpr(run)(*args)
    made = [eqn for eqn in traced.eqns if eqn.primitive.name == "dot_general"]
    return sum(eqn.outvars[0].aval.size for eqn in made[::2])


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("case", CASES)
def test_in_order_is_the_same_for_less(case, cap):
    queries, keys, pairs = CASES[case]
    q, k, v, mask = inputs(queries, keys)

    def total(see):
        def of(q, k, v):
            found = see(q, k, v, mask, 0.3, cap)
            return jnp.sum(jnp.sin(found)), found

        return jax.grad(of, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    expected, whole = total(attention.attend)
    grads, found = total(attention.attend_in_order)
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert products(attention.attend_in_order, q, k, v, mask) == 2 * 4 * pairs
    assert products(attention.attend, q, k, v, mask) == 2 * 4 * queries * keys


@pytest.mark.parametrize("first", [0, 20])
@pytest.mark.parametrize("scan", [True, False])
def test_a_decoder_told_of_the_order(first, scan, monkeypatch):
    c = dataclasses.replace(PLAIN, scan_layers=scan)
    rng, count = np.random.default_rng(1), 150
    ids = rng.integers(0, V, (2, count))
    places = np.broadcast_to(np.arange(count), ids.shape)
    mask = np.tri(count, dtype=bool) & (
        (rng.random((2, count, count)) < 0.5) | np.eye(count, dtype=bool)
    )
    asked = []

    def noted(q, *args):
        asked.append(q.shape[1])
        return attention.attend_in_order(q, *args)

    expected = apply(c, random_params(c), ids, places, mask, first)
    monkeypatch.setattr(block, "attend_in_order", noted)
    found = apply(c, random_params(c), ids, places, mask, first, True)
    assert asked and {count, count - first} == set(asked)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_rows_of_texts_are_read_in_order(monkeypatch):
    """What multiplies all pairs is not called; a row of 128 has two parts."""

    def never(*_):
        raise AssertionError("all pairs are multiplied")

    params, some = random_params(PLAIN), jnp.zeros((1, 128), jnp.int32)
    monkeypatch.setattr(block, "attend", never)
    found = texts.make(PLAIN).hidden(params, Packed(*[some] * 9))
    assert found.shape == (1, 128, PLAIN.width)
