"""Commands with common prefixes merged: a token trie, built on the device.

Shape letters of `rljax.types`: A commands, L tokens of a command, N nodes.
Everything here works on one state; `jax.vmap` makes a batch of it.
"""

from collections.abc import Sequence
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

from rljax.text.tokenizer import encode
from rljax.types import Commands, Trie


def build(commands: Commands, num_nodes: int) -> Trie:
    """Merges the common prefixes of a state's commands.

    Node n is the n-th distinct prefix, counted by depth and then by command: so
    parents come before their children, and all nodes of a depth stand together.
    Prefixes are compared pair by pair, with neither sort nor scatter: a few
    A x A and N x N comparisons for each depth, about a microsecond a state.

    Commands are taken as they are: two equal ones share all their nodes and score
    alike, so merge duplicates (or mask all but the first) before.

    Args:
      commands: ids int32 [A, L], length int32 [A], mask bool [A].
      num_nodes: size N of the node axis; `worst_case_nodes` gives a safe one. A
        prefix that does not fit has node N + 1, and `policy.score` gives NaN for
        its commands, since nothing can raise in compiled code.

    Returns:
      The trie, with N nodes.
    """
    chex.assert_rank([commands.ids, commands.length, commands.mask], [2, 1, 1])
    num_commands, num_tokens = commands.ids.shape
    command, node = jnp.arange(num_commands), jnp.arange(num_nodes)
    first = jnp.zeros_like(command)  # first command with the same prefix so far
    count = jnp.int32(0)  # nodes so far
    place = jnp.zeros_like(node)  # where in [L, A] the prefix of a node comes first
    last = jnp.full_like(command, num_nodes)
    columns = []
    for depth in range(num_tokens):
        real = commands.mask & (depth < commands.length)
        token = jnp.where(real, commands.ids[:, depth], -1)  # ids are not negative
        same = (token[:, None] == token) & (first[:, None] == first)
        first = jnp.min(jnp.where(same, command, num_commands), axis=1)
        new = (real & (first == command)).astype(jnp.int32)
        total = count + jnp.sum(jnp.where(command <= command[:, None], new, 0), axis=1)
        index = total[first] - 1
        index = jnp.where(index < num_nodes, index, num_nodes + 1)
        columns.append(jnp.where(real, index, num_nodes))
        last = jnp.where(real, index, last)
        place += jnp.sum((total <= node[:, None]).astype(jnp.int32), axis=1)
        count = total[-1]
    path = jnp.stack(columns)
    mask = node < count
    place = jnp.where(mask, place, 0)
    depth, owner = place // num_commands, place % num_commands
    above = path.reshape(-1)[jnp.maximum(place - num_commands, 0)]
    ancestors = jnp.zeros((num_nodes, num_nodes), bool)
    for i in range(num_tokens):
        on_path = jnp.where(mask & (i <= depth), path[i][owner], num_nodes)
        ancestors |= on_path[:, None] == node
    return Trie(
        ids=jnp.where(mask, commands.ids.T.reshape(-1)[place], 0),
        depth=depth,
        parent=jnp.where(mask & (depth > 0), above, -1),
        mask=mask,
        ancestors=ancestors,
        path=path.T,
        last=last,
        command_mask=commands.mask,
    )


def worst_case_nodes(ids: np.ndarray, length: np.ndarray, num_commands: int) -> int:
    """The largest trie that a state with so many commands can have.

    All commands that can ever be admissible form one large trie, and a state has
    the union of at most A of its root-to-leaf paths. The largest union comes from
    taking, A times, the path with most nodes not yet taken, which is what the
    longest chains of the long-path decomposition are: each node hands its own
    height on through its highest child, and every other child starts a chain. So
    the bound is exact: some set of A commands reaches it, and none exceeds it.

    Args:
      ids: all possible commands, int [n, L], right-padded.
      length: int [n].
      num_commands: A, the most commands of one state.

    Returns:
      A node budget for `build`.

    Raises:
      ValueError: there is no command, or one without tokens, or A < 1.
    """
    if num_commands < 1:
        raise ValueError(f"num_commands is {num_commands}; it must be at least 1")
    if len(ids) == 0:
        raise ValueError("there is no command to bound")
    if np.min(length) < 1:
        raise ValueError(f"command {int(np.argmin(length))} has no tokens")
    root: dict[int, Any] = {}
    for row, size in zip(np.asarray(ids).tolist(), length, strict=True):
        branch = root
        for token in row[:size]:
            branch = branch.setdefault(token, {})
    chains: list[int] = []

    def height(branch: dict[int, Any]) -> int:
        heights = sorted(map(height, branch.values()))
        chains.extend(heights[:-1])
        return 1 + (heights[-1] if heights else 0)

    chains.append(height(root) - 1)  # the root stands for the prompt
    return sum(sorted(chains)[-num_commands:])


def from_texts(
    tokenizer: Any,
    texts: Sequence[str],
    state: str = "",
    after: str | None = None,
    lead: str = " ",
) -> Commands:
    """The commands of one state from their texts, on the host.

    A command is encoded with the space before it, which belongs to it. A slot with
    an empty text, or with the tokens of an earlier slot, is masked out.

    Args:
      tokenizer: a Hugging Face tokenizer.
      texts: the text of each slot; "" where the slot holds no command.
      state: what names the state in an error, its prompt for one.
      after: text that the commands follow, its end at least. Without it they are
        encoded as texts of their own, before which some tokenizers, SentencePiece's
        for one, put a second space.
      lead: what stands between that text and a command; `Template.lead` in a chat.

    Returns:
      ids int32 [A, L] with L the most tokens of a command, length int32 [A], mask
      bool [A].

    Raises:
      ValueError: no slot holds a command, a command has no tokens, a word is unknown
        to the tokenizer, or it joins a command with the end of `after`.
    """
    if not any(texts):
        raise ValueError(f"no admissible command in state {state!r}")
    encoded: list[tuple[int, ...]] = [() for _ in texts]
    slots = [slot for slot, text in enumerate(texts) if text]
    words = [f"{lead}{texts[slot]}" for slot in slots]
    said = encode(tokenizer, words, None if after is None else [after] * len(words))
    for slot, ids in zip(slots, said, strict=True):
        if not len(ids):
            raise ValueError(
                f"command {texts[slot]!r} has no tokens in state {state!r}"
            )
        encoded[slot] = tuple(int(i) for i in ids)
    out = np.zeros((len(texts), max(map(len, encoded))), np.int32)
    for row, ids in zip(out, encoded, strict=True):
        row[: len(ids)] = ids
    mask = [bool(ids) and ids not in encoded[:i] for i, ids in enumerate(encoded)]
    return Commands(
        jnp.asarray(out), jnp.asarray([*map(len, encoded)], jnp.int32), jnp.array(mask)
    )
