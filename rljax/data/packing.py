"""Batches of logged texts, packed into rows of one length, in an order that is data.

What update n learns from is a function of the texts, the seed and n. So the cursor of
a run is the number of its update, and a resumed run reads what it would have read.
Works on the host. Shapes: see `types.Packed`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.types import Episode, Packed

Item = tuple[Episode, ...]  # texts that are compared with each other, or one
# Items of a batch -> the same number of items, such as with mismatched answers added.
Compose = Callable[[list[Item]], list[Item]]


class Plan(NamedTuple):
    """How a log is read; `make_plan` makes it.

    Attributes:
      items: of the log, in its order.
      compose: what becomes of the items of a batch.
      batch_size: items of an update, over all devices.
      epochs: passes over the log.
      seed: of the order.
      group: number of each item's group, int [items]; those of a group come one after
        the other, in every epoch.
      num_devices: that share a batch evenly.
      updates: of the whole run.
      rows: R of each device, enough for every batch of the run.
      tokens: T.
      actions: L.
      members: texts of an item.
      shared: what texts have before their first action stands once in a row, where
        several of the row begin with the same tokens. The model reads less, and finds
        the same but for rounding.
    """

    items: Sequence[Item]
    compose: Compose
    batch_size: int
    epochs: int
    seed: int
    group: np.ndarray
    num_devices: int
    updates: int
    rows: int
    tokens: int
    actions: int
    members: int
    shared: bool = False

    @property
    def updates_per_epoch(self) -> int:
        """The last of them may have fewer items."""
        return -(-len(self.items) // self.batch_size)


def as_they_are(items: list[Item]) -> list[Item]:
    """Composes nothing."""
    return items


def make_plan(
    items: Sequence[Item],
    batch_size: int,
    epochs: int,
    seed: int,
    num_devices: int = 1,
    tokens: int | None = None,
    compose: Compose = as_they_are,
    budget: int = 0,
    by_task: bool = False,
) -> Plan:
    """Finds the sizes that all batches of a run fit into.

    Args:
      items: at least one; all of the same number of texts.
      batch_size: items of an update.
      epochs: passes over the log.
      seed: of the order.
      num_devices: that share a batch.
      tokens: length of a row; by default the longest text's, rounded up to 16.
      compose: applied to the items of each batch.
      budget: tokens after which the run ends, with the update that reaches it, however
        many or few epochs that takes; 0: `epochs` say when.
      by_task: items whose first texts are of one task come one after the other, so
        that a batch holds most answers to a few problems and not one to each of many.
        What good and bad answers have in common then cancels in a policy gradient.

    Raises:
      ValueError: if there is no item, a size is impossible, or a text is longer than
        a row. Nothing is cut off.
    """
    if not items:
        raise ValueError("there is nothing to learn from: no items were given")
    for name, value in (("batch_size", batch_size), ("epochs", epochs)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if batch_size % num_devices:
        raise ValueError(
            f"batch_size is {batch_size}, which {num_devices} devices cannot share "
            "evenly"
        )
    updates = epochs * -(-len(items) // batch_size)
    tasks = [item[0].task for item in items] if by_task else range(len(items))
    group = np.unique(np.array(tasks), return_inverse=True)[1]
    plan = Plan(
        items, compose, batch_size, epochs, seed, group, num_devices, updates,
        rows=0, tokens=0, actions=0, members=0,
    )  # fmt: skip
    if budget:
        plan = _within(plan, budget)
    shares = [
        share for n in range(plan.updates) for share in _shares(plan, batch_of(plan, n))
    ]
    texts = [text for share in shares for item in share for text in item]
    longest = max(len(text.ids) for text in texts)
    if tokens is None:
        tokens = -(-longest // 16) * 16
    for text in texts:
        if len(text.ids) > tokens:
            raise ValueError(
                f"the text of line {text.line} has {len(text.ids)} tokens, but a row "
                f"holds {tokens}: allow longer rows or leave the line out"
            )
        if text.action[0] or not text.action.any():
            fault = "begins with an action" if text.action[0] else "has no action"
            raise ValueError(
                f"the text of line {text.line} {fault}; actions follow a prompt"
            )
    members = {len(item) for share in shares for item in share}
    if len(members) > 1:
        raise ValueError(f"items have {sorted(members)} texts; all must have as many")
    return plan._replace(
        rows=max(len(_fill(plan, _texts(share), tokens)) for share in shares),
        tokens=tokens,
        actions=max(1, max(int(text.action.sum()) for text in texts)),
        members=members.pop(),
    )


def batch_of(plan: Plan, update: int) -> list[Item]:
    """The items of an update, before they are packed.

    Every item comes once an epoch, in an order of its own for each epoch.
    """
    if not 0 <= update < plan.updates:
        raise ValueError(f"update is {update}; the run has {plan.updates}")
    return _batch(plan, update)


def _batch(plan: Plan, update: int) -> list[Item]:
    epoch, number = divmod(update, plan.updates_per_epoch)
    rng = np.random.default_rng([plan.seed, epoch])
    order = rng.permutation(len(plan.items))
    if (plan.group != np.arange(len(plan.items))).any():
        place = rng.permutation(plan.group.max() + 1)  # of each group in this epoch
        order = order[np.argsort(place[plan.group[order]], kind="stable")]
    chosen = order[number * plan.batch_size : (number + 1) * plan.batch_size]
    return plan.compose([plan.items[i] for i in chosen])


def pack(plan: Plan, items: list[Item]) -> Packed:
    """Items as one batch, for all devices.

    Args:
      plan: whose sizes are used.
      items: at most `plan.batch_size`.

    Returns:
      A batch; with a leading axis of devices where there are several.
    """
    packed = [_pack(plan, share) for share in _shares(plan, items)]
    if plan.num_devices == 1:
        return packed[0]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *packed)


def rows_needed(plan: Plan, items: list[Item]) -> int:
    """The fewest rows of a device that `pack` could put these items into.

    Args:
      plan: whose other sizes are used.
      items: at most `plan.batch_size`, no text longer than `plan.tokens`.
    """
    return max(len(_fill(plan, _texts(s), plan.tokens)) for s in _shares(plan, items))


def num_tokens(items: list[Item]) -> int:
    """Tokens of all texts, prompts included."""
    return sum(len(text.ids) for item in items for text in item)


def _within(plan: Plan, budget: int) -> Plan:
    """The plan with as many updates as reach a number of tokens."""
    read = updates = 0
    while read < budget:
        read += num_tokens(_batch(plan, updates))
        updates += 1
    epochs = -(-updates // plan.updates_per_epoch)
    return plan._replace(updates=updates, epochs=epochs)


def _shares(plan: Plan, items: list[Item]) -> list[list[Item]]:
    """Deals items to devices so that each has about as many tokens."""
    if plan.num_devices == 1:
        return [items]
    size = plan.batch_size // plan.num_devices
    shares: list[list[Item]] = [[] for _ in range(plan.num_devices)]
    loads = [0] * plan.num_devices
    for item in sorted(items, key=lambda item: -num_tokens([item])):
        open_ = [d for d in range(plan.num_devices) if len(shares[d]) < size]
        least = min(open_, key=lambda d: loads[d])
        shares[least].append(item)
        loads[least] += num_tokens([item])
    return shares


def _texts(items: list[Item]) -> list[Episode]:
    return [text for item in items for text in item]


def _fill(plan: Plan, texts: list[Episode], tokens: int) -> list[list[int]]:
    """First fit, longest first: which texts each row holds.

    Where beginnings are shared, texts that begin alike come one after the other, and
    one that finds its beginning in a row needs only the rest of its room there.
    """
    prompts = [_prompt(plan, text) for text in texts]
    sizes = [len(text.ids) for text in texts]
    longest: dict[bytes, int] = {}
    for prompt, size in zip(prompts, sizes, strict=True):
        longest[prompt] = max(size, longest.get(prompt, 0))
    rank = {p: n for n, p in enumerate(sorted(longest, key=lambda p: -longest[p]))}

    def order(i: int) -> tuple[int, int]:
        return (rank[prompts[i]] if plan.shared else 0, -sizes[i])

    rows: list[list[int]] = []
    room: list[int] = []
    held: list[set[bytes]] = []  # beginnings that a row has
    for i in sorted(range(len(texts)), key=order):
        prompt, said = prompts[i], sizes[i] - len(prompts[i]) // _BYTES

        def need(row, prompt=prompt, said=said, size=sizes[i]):
            return said if prompt in held[row] else size

        row = next((r for r, left in enumerate(room) if left >= need(r)), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(tokens)
            held.append(set())
        rows[row].append(i)
        room[row] -= need(row)
        if prompt:
            held[row].add(prompt)
    return rows


_BYTES = 4  # of a token in what `_prompt` gives


def _prompt(plan: Plan, text: Episode) -> bytes:
    """What a text may share: the tokens before its first action, or nothing."""
    begin = int(np.argmax(text.action)) if plan.shared else 0
    return np.asarray(text.ids[:begin], np.int32).tobytes()


class _Row:
    """A row that is filled, a segment after the other."""

    def __init__(self, tokens: int):
        """An empty one."""
        self.fields = np.zeros((4, tokens), np.int32)  # ids, position, segment, begun
        self.end = self.number = 0  # tokens and segments so far
        self.prompts: dict[bytes, tuple[int, np.ndarray]] = {}  # numbers and columns

    def add(self, ids: np.ndarray, prompt: bytes) -> np.ndarray:
        """Puts a text in, its beginning only where it is not there; its columns."""
        shared = len(prompt) // _BYTES
        if prompt and prompt not in self.prompts:
            columns = self._put(ids[:shared], 0, 0)
            self.prompts[prompt] = self.number, columns
        root, columns = self.prompts.get(prompt, (0, np.zeros(0, int)))
        return np.concatenate([columns, self._put(ids[shared:], shared, root)])

    def _put(self, ids: np.ndarray, first: int, root: int) -> np.ndarray:
        self.number += 1
        columns = np.arange(self.end, self.end + len(ids))
        self.end += len(ids)
        for field, value in zip(
            self.fields,
            (ids, first + np.arange(len(ids)), self.number, root),
            strict=True,
        ):
            field[columns] = value
        return columns


def _pack(plan: Plan, items: list[Item]) -> Packed:
    """The batch of one device."""
    size = plan.batch_size // plan.num_devices * plan.members
    wide, deep = plan.tokens, plan.actions
    at, action, step = (np.zeros((size, deep), np.int32) for _ in range(3))
    mask = np.zeros((size, deep), bool)
    reward, line = np.zeros(size, np.float32), np.full(size, -1, np.int32)
    texts = _texts(items)
    rows = [_Row(wide) for _ in range(plan.rows)]
    for row, members in enumerate(_fill(plan, texts, wide)):
        for e in members:
            text = texts[e]
            columns = rows[row].add(text.ids, _prompt(plan, text))
            (said,) = np.nonzero(text.action)
            count = len(said)
            at[e, :count] = row * wide + columns[said - 1]
            action[e, :count], mask[e, :count] = text.ids[said], True
            step[e, :count] = text.step[said]
            reward[e], line[e] = text.reward, text.line
    ids, position, segment, begun = np.stack([row.fields for row in rows], axis=1)
    found = (ids, position, segment, at, action, mask, step, reward, line)
    packed = Packed(*map(jnp.asarray, found))
    return packed._replace(begun=jnp.asarray(begun)) if plan.shared else packed
