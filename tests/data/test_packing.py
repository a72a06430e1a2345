"""Packed batches hold every text once, whole, and in an order that is data."""

import collections
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.data import packing
from rljax.policy import texts as texts_lib
from rljax.types import Episode
from tests.agents import offline_texts as toy

LOG = toy.log(23)
ITEMS: list[packing.Item] = [(episode,) for episode in LOG]


def unpacked(batch) -> list[Episode]:
    """The texts of a batch, from its rows."""
    found = []
    ids, position, segment = map(np.asarray, (batch.ids, batch.position, batch.segment))
    for e in range(len(batch.line)):
        if batch.line[e] < 0:
            assert not batch.mask[e].any()
            continue
        first = int(batch.at[e, 0])
        row, column = divmod(first, ids.shape[1])
        own = segment[row] == segment[row, column]
        (places,) = np.nonzero(own)
        np.testing.assert_array_equal(position[row, own], np.arange(own.sum()))
        action = np.zeros(own.sum(), bool)
        step = np.full(own.sum(), -1)
        count = int(batch.mask[e].sum())
        where = np.asarray(batch.at[e, :count]) % ids.shape[1] + 1 - places[0]
        action[where], step[where] = True, batch.step[e, :count]
        np.testing.assert_array_equal(ids[row, own][where], batch.action[e, :count])
        found.append(
            Episode(
                ids[row, own], action, step, float(batch.reward[e]), "", "",
                int(batch.line[e]),
            )
        )  # fmt: skip
    return found


def same(one: Episode, other: Episode) -> bool:
    return (
        one.line == other.line
        and one.reward == other.reward
        and np.array_equal(one.ids, other.ids)
        and np.array_equal(one.action, other.action)
        and np.array_equal(one.step, other.step)
    )


@settings(max_examples=30, deadline=None)
@given(
    batch_size=st.integers(1, 6),
    tokens=st.sampled_from([None, 12, 17, 40]),
    devices=st.sampled_from([1, 2]),
    seed=st.integers(0, 5),
)
def test_every_epoch_has_every_text_once_and_whole(batch_size, tokens, devices, seed):
    plan = packing.make_plan(
        ITEMS, batch_size * devices, 2, seed, devices, tokens=tokens
    )
    shapes = set()
    for epoch in range(2):
        seen = []
        for n in range(plan.updates_per_epoch):
            update = epoch * plan.updates_per_epoch + n
            batch = packing.pack(plan, packing.batch_of(plan, update))
            shapes.add(tuple(leaf.shape for leaf in jax.tree.leaves(batch)))
            shares = [batch]
            if devices > 1:
                shares = [jax.tree.map(lambda x, d=d: x[d], batch) for d in range(2)]
            seen += [text for share in shares for text in unpacked(share)]
        by_line = {text.line: text for text in seen}
        assert len(seen) == len(by_line) == len(LOG)
        assert all(same(by_line[text.line], text) for text in LOG)
    assert len(shapes) == 1  # one program


def test_the_order_is_a_function_of_seed_and_epoch():
    def lines(seed, update):
        plan = packing.make_plan(ITEMS, 4, 2, seed)
        return [item[0].line for item in packing.batch_of(plan, update)]

    assert lines(0, 3) == lines(0, 3)
    assert lines(0, 3) != lines(1, 3) and lines(0, 0) != lines(0, 6)


def test_texts_of_a_comparison_stand_next_to_each_other():
    items = [(LOG[i], LOG[i + 1]) for i in range(0, 8, 2)]
    plan = packing.make_plan(items, 4, 1, 0, tokens=32)
    chosen = packing.batch_of(plan, 0)
    batch = packing.pack(plan, chosen)
    expected = [text.line for item in chosen for text in item]
    assert np.asarray(batch.line).tolist() == expected


def test_short_texts_share_rows():
    """As few rows as so many tokens can be in."""
    plan = packing.make_plan(ITEMS, 23, 1, 0, tokens=64)
    real = collections.Counter(
        np.asarray(packing.pack(plan, ITEMS).segment > 0).ravel()
    )
    assert real[True] == sum(len(text.ids) for text in LOG)
    assert plan.rows == -(-real[True] // 64)


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="no items were given"):
        packing.make_plan([], 4, 1, 0)
    with pytest.raises(ValueError, match="epochs is 0"):
        packing.make_plan(ITEMS, 4, 0, 0)
    with pytest.raises(ValueError, match="batch_size is 3, which 2 devices"):
        packing.make_plan(ITEMS, 3, 1, 0, 2)
    longest = max(LOG, key=lambda text: len(text.ids))
    with pytest.raises(ValueError, match=r"line \d+ has 12 tokens, but a row holds 11"):
        packing.make_plan(ITEMS, 4, 1, 0, tokens=len(longest.ids) - 1)
    begins = longest._replace
    with pytest.raises(ValueError, match="begins with an action"):
        packing.make_plan([(begins(action=np.ones(12, bool)),)], 1, 1, 0)
    plan = packing.make_plan(ITEMS, 4, 1, 0)
    with pytest.raises(ValueError, match="update is 6; the run has 6"):
        packing.batch_of(plan, 6)


def test_a_budget_of_tokens_ends_the_run_with_the_update_that_reaches_it():
    def read(updates):
        return [packing.num_tokens(packing.batch_of(whole, n)) for n in range(updates)]

    whole = packing.make_plan(ITEMS, 4, 5, seed=1)
    within = np.cumsum(read(whole.updates))
    for reach in (0, 3, 8):  # in the first epoch and in the second
        for budget, updates in (
            (within[reach], reach + 1),
            (within[reach] + 1, reach + 2),
        ):
            plan = packing.make_plan(ITEMS, 4, 1, seed=1, budget=int(budget))
            assert plan.updates == updates
            last = packing.batch_of(plan, updates - 1)
            same_as = packing.batch_of(whole, updates - 1)
            assert [text.line for (text,) in last] == [text.line for (text,) in same_as]
            with pytest.raises(ValueError, match=f"the run has {updates}"):
                packing.batch_of(plan, updates)


def test_answers_to_one_task_come_one_after_the_other():
    items = [(episode._replace(task=f"{n % 5}"),) for n, episode in enumerate(LOG)]
    plan = packing.make_plan(items, 4, 2, seed=1, by_task=True)
    orders = []
    for epoch in range(2):
        updates = range(plan.updates_per_epoch)
        first = epoch * plan.updates_per_epoch
        shown = [item[0] for n in updates for item in packing.batch_of(plan, first + n)]
        assert sorted(text.line for text in shown) == sorted(text.line for text in LOG)
        changes = sum(a.task != b.task for a, b in itertools.pairwise(shown))
        assert changes == 4
        orders.append([text.line for text in shown])
    assert orders[0] != orders[1]


def test_without_tasks_the_order_is_a_permutation_of_the_epoch():
    plan = packing.make_plan(ITEMS, len(ITEMS), 1, seed=7)
    shown = [text.line for (text,) in packing.batch_of(plan, 0)]
    order = np.random.default_rng([7, 0]).permutation(len(ITEMS))
    assert shown == [LOG[i].line for i in order]


@given(count=st.integers(1, 23), num_devices=st.sampled_from([1, 2]))
@settings(max_examples=20, deadline=None)
def test_rows_needed_are_enough_and_none_is_empty(count, num_devices):
    items = ITEMS[:count]
    plan = packing.make_plan(ITEMS, 24, 1, 0, num_devices, tokens=32)
    rows = packing.rows_needed(plan, items)
    batch = packing.pack(plan._replace(rows=rows), items)
    segment = np.asarray(batch.segment).reshape(num_devices, rows, -1)
    assert segment.any(axis=(0, 2)).all()
    assert np.sum(np.asarray(batch.line) >= 0) == count
    with pytest.raises(IndexError):
        packing.pack(plan._replace(rows=rows - 1), items)


def groups_of(count: int = 4, size: int = 3) -> list[packing.Item]:
    """Texts that begin alike within a group, numbered through."""
    rng, found = np.random.default_rng(5), []
    for group in range(count):
        begin = int(rng.integers(1, 6))
        prompt = rng.integers(1, toy.CONFIG.vocab_size, begin)
        for member in range(size):
            said = rng.integers(1, toy.CONFIG.vocab_size, int(rng.integers(2, 8)))
            ids = np.concatenate([prompt, said]).astype(np.int32)
            action = np.arange(len(ids)) >= begin
            if member == 0 and len(said) > 2:
                action[begin + 1] = False  # something between two actions
            step = np.where(action, 0, -1).astype(np.int32)
            found.append(Episode(ids, action, step, 0.0, "", "", group * size + member))
    return [tuple(found[i : i + size]) for i in range(0, len(found), size)]


@pytest.mark.parametrize("tokens", [16, 32, 80])
def test_a_shared_beginning_stands_once_and_the_model_reads_the_same(tokens):
    items = groups_of()
    plan = packing.make_plan(items, len(items), 1, 0, tokens=tokens)
    shared = plan._replace(shared=True)
    shared = shared._replace(rows=packing.rows_needed(shared, items))
    batch = packing.pack(shared, items)
    texts = [text for item in items for text in item]
    assert np.asarray(batch.line).tolist() == [text.line for text in texts]
    expected: set[tuple] = (
        set()
    )  # (row, beginning) and (row, text): what is to stand there
    for text, at in zip(texts, np.asarray(batch.at), strict=True):
        begin = int(np.argmax(text.action))
        row = int(at[0]) // tokens
        expected.add((row, text.ids[:begin].tobytes(), begin))
        expected.add((row, text.line, len(text.ids) - begin))
    held = int((np.asarray(batch.segment) > 0).sum())
    assert held == sum(length for *_, length in expected)
    if tokens == 80:  # all of a group fit beside each other
        assert held < sum(len(text.ids) for text in texts)

    params = toy.weights()
    hidden = np.asarray(texts_lib.make(toy.CONFIG).hidden(params, batch))
    alone = np.asarray(toy.hidden_of(params, texts))
    for e, text in enumerate(texts):
        (said,) = np.nonzero(text.action)
        got = hidden.reshape(-1, toy.CONFIG.width)[np.asarray(batch.at)[e, : len(said)]]
        np.testing.assert_allclose(got, alone[e, said - 1], atol=2e-5)
        np.testing.assert_array_equal(
            np.asarray(batch.action)[e, : len(said)], text.ids[said]
        )
