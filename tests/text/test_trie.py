"""The packed trie against a dictionary of prefixes built in plain Python."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.text import tokenizer, trie
from rljax.types import Commands

A, L, N = 5, 3, 15
build = jax.jit(trie.build, static_argnums=1)


def pack(rows: list[list[int]], mask=None, junk: int = 7) -> Commands:
    """Right-pads the rows to [A, L]; missing rows are masked out."""
    ids = np.full((A, L), junk, np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    length = np.array([len(r) for r in rows] + [0] * (A - len(rows)), np.int32)
    mask = length > 0 if mask is None else np.array(mask)
    return Commands(jnp.asarray(ids), jnp.asarray(length), jnp.asarray(mask))


def check(rows: list[list[int]], mask: list[bool], built) -> None:
    """Compares with the definition: one node for each distinct prefix."""
    built = jax.tree.map(np.asarray, built)
    real = [tuple(row) if keep else () for row, keep in zip(rows, mask, strict=True)]
    prefixes = {row[: j + 1] for row in real for j in range(len(row))}
    assert built.mask.sum() == len(prefixes)
    np.testing.assert_array_equal(np.flatnonzero(built.mask), np.arange(len(prefixes)))
    named: dict[int, tuple[int, ...]] = {}
    for n in range(len(prefixes)):
        parent = int(built.parent[n])
        assert parent < n
        above = named[parent] if parent >= 0 else ()
        named[n] = (*above, int(built.ids[n]))
        assert built.depth[n] == len(named[n]) - 1
    assert set(named.values()) == prefixes
    for n, m in np.ndindex(N, N):
        expected = n in named and m in named and named[n][: len(named[m])] == named[m]
        assert built.ancestors[n, m] == expected
    for a, row in enumerate(real):
        nodes = [int(n) for n in built.path[a]]
        assert [named[n] for n in nodes[: len(row)]] == [
            row[: j + 1] for j in range(len(row))
        ]
        assert nodes[len(row) :] == [N] * (L - len(row))
        assert built.last[a] == (nodes[len(row) - 1] if row else N)
    np.testing.assert_array_equal(built.command_mask, mask)


row_lists = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=L), min_size=A, max_size=A
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(row_lists, st.lists(st.booleans(), min_size=A, max_size=A))
def test_random_commands(rows, mask):
    check(rows, mask, build(pack(rows, mask), N))


def test_by_hand():
    # "go red", "grasp", "go red seed", "go blue": nodes by depth, then by command:
    # 0 go, 1 grasp | 2 go red, 3 go blue | 4 go red seed.
    go, grasp, red, blue, seed = 1, 2, 3, 4, 5
    built = build(pack([[go, red], [grasp], [go, red, seed], [go, blue]]), N)
    np.testing.assert_array_equal(built.ids[:5], [go, grasp, red, blue, seed])
    np.testing.assert_array_equal(built.depth[:5], [0, 0, 1, 1, 2])
    np.testing.assert_array_equal(built.parent[:6], [-1, -1, 0, 0, 2, -1])
    np.testing.assert_array_equal(
        built.path, [[0, 2, N], [1, N, N], [0, 2, 4], [0, 3, N], [N, N, N]]
    )
    np.testing.assert_array_equal(built.last, [2, 1, 4, 3, N])
    np.testing.assert_array_equal(
        built.ancestors[:6, :6].astype(int),
        [
            [1, 0, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, 0],
            [1, 0, 1, 0, 0, 0],
            [1, 0, 0, 1, 0, 0],
            [1, 0, 1, 0, 1, 0],
            [0, 0, 0, 0, 0, 0],
        ],
    )


def test_padding_and_masked_commands_do_not_matter():
    rows = [[1, 2], [1], [2, 2, 1]]
    built = build(pack(rows, junk=1), N)
    chex.assert_trees_all_equal(built, build(pack(rows, junk=9), N))
    masked = build(pack([*rows, [2, 1]], [True, True, True, False, False]), N)
    chex.assert_trees_all_equal(built, masked)


def test_duplicates_share_their_nodes():
    built = build(pack([[1, 2], [3], [1, 2]]), N)
    assert built.mask.sum() == 3
    np.testing.assert_array_equal(built.path[0], built.path[2])


def test_batch_equals_states_one_by_one():
    rng = np.random.default_rng(0)
    batch = Commands(
        jnp.asarray(rng.integers(0, 3, (4, A, L)), jnp.int32),
        jnp.asarray(rng.integers(1, L + 1, (4, A)), jnp.int32),
        jnp.asarray(rng.random((4, A)) < 0.7),
    )
    together = jax.jit(jax.vmap(lambda c: trie.build(c, N)))(batch)
    for i in range(4):
        alone = build(jax.tree.map(lambda x, i=i: x[i], batch), N)
        chex.assert_trees_all_equal(jax.tree.map(lambda x, i=i: x[i], together), alone)


def test_a_prefix_beyond_the_budget_is_marked():
    built = trie.build(pack([[1, 2, 3], [4, 5, 6]]), 3)  # by depth: 1 4 | 2 5 | 3 6
    np.testing.assert_array_equal(built.path[:2], [[0, 2, 4], [1, 4, 4]])
    assert built.mask.all()


def test_worst_case_by_hand():
    # Trie: 1-(2-(3, 4), 5), 6. Chains: 1-2-3 (3 nodes), then 4, 5 and 6 (1 each).
    ids = np.array([[1, 2, 3], [1, 2, 4], [1, 5, 0], [6, 0, 0]])
    length = np.array([3, 3, 2, 1])
    assert [trie.worst_case_nodes(ids, length, a) for a in (1, 2, 3, 4, 9)] == [
        3,
        4,
        5,
        6,
        6,
    ]


@pytest.mark.parametrize("seed", range(5))
def test_worst_case_is_reached_and_never_exceeded(seed):
    rng = np.random.default_rng(seed)
    ids, length = rng.integers(0, 3, (8, 4)), rng.integers(1, 5, 8)
    rows = [tuple(row[:size]) for row, size in zip(ids, length, strict=True)]
    for num_commands in (1, 2, 3, 5, 8):
        sizes = [
            len({row[: j + 1] for row in chosen for j in range(len(row))})
            for chosen in itertools.combinations(rows, num_commands)
        ]
        assert trie.worst_case_nodes(ids, length, num_commands) == max(sizes)


@pytest.mark.parametrize(
    "ids, length, num_commands, message",
    [
        (np.ones((2, 2)), np.ones(2, int), 0, "num_commands is 0"),
        (np.ones((0, 2)), np.ones(0, int), 1, "no command to bound"),
        (np.ones((2, 2)), np.array([1, 0]), 1, "command 1 has no tokens"),
    ],
)
def test_worst_case_rejects(ids, length, num_commands, message):
    with pytest.raises(ValueError, match=message):
        trie.worst_case_nodes(ids, length, num_commands)


WORDS = tokenizer.word_level(["Grasp", "Grape", "Go to", "it"])  # ids from 3


def test_from_texts():
    commands = trie.from_texts(WORDS, ["Grasp", "", "Go to it", "Grape", "Grasp"])
    np.testing.assert_array_equal(
        commands.ids, [[3, 0], [0, 0], [5, 6], [4, 0], [3, 0]]
    )
    np.testing.assert_array_equal(commands.length, [1, 0, 2, 1, 1])
    np.testing.assert_array_equal(commands.mask, [True, False, True, True, False])


def test_from_texts_rejects_a_state_without_commands():
    with pytest.raises(ValueError, match="no admissible command in state 'You see: x'"):
        trie.from_texts(WORDS, ["", ""], "You see: x")
    with pytest.raises(ValueError, match="command '  ' has no tokens"):
        trie.from_texts(WORDS, ["Grasp", "  "])
    with pytest.raises(ValueError, match="unicorn"):
        trie.from_texts(WORDS, ["Grasp", "Go to unicorn"])


def test_from_texts_after_a_prompt():
    """SentencePiece puts a space before every text: one is there already."""
    ids = {"▁": 0, "h": 1, "i": 2, "▁h": 3, "▁hi": 4, "a": 5, "▁a": 6}
    merges = [("▁", "h"), ("▁h", "i"), ("▁", "a")]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
    backend.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.Prepend("▁"),
            tokenizers.normalizers.Replace(" ", "▁"),
        ]
    )
    pieces = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    assert tokenizer.encode(pieces, ["a hi"])[0].tolist() == [6, 4]
    found = trie.from_texts(pieces, ["hi", "", "a"], after="a")
    np.testing.assert_array_equal(found.ids, [[4], [0], [6]])
    np.testing.assert_array_equal(found.mask, [True, False, True])
    # What leads to a command may be nothing, as after "assistant\n".
    found = trie.from_texts(pieces, ["hi"], after="a", lead="")
    np.testing.assert_array_equal(found.ids, [[1, 2]])
    with pytest.raises(ValueError, match="joins the end of 'h' with 'i'"):
        trie.from_texts(pieces, ["i"], after="h", lead="")
