"""Every array that crosses a folder, with its shape.

Shape letters, used everywhere: B batch, T tokens, P prompt tokens, V vocabulary,
D width, A commands, L tokens of a command, N nodes of a trie, E environments,
S steps, G goals. `_tm1` is the state left, `_t` the state reached. Leading batch
axes are left out of the tables: `[A]` becomes `[B, A]` in a batch.
"""

from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np

PyTree = Any  # nested tuples, dicts and dataclasses of arrays
Params = Any  # a PyTree of weights
Key = jax.Array  # from jax.random.key; a function that takes one consumes it
Metrics = dict[str, jax.Array]  # scalars, named in slash groups
Observation = Any  # an environment's own compact PyTree of small integers

GOOD = 0.5  # an attempt is right, or good, where its reward is above this


class Tokens(NamedTuple):
    """A padded token sequence; real tokens first."""

    ids: jax.Array  # int32 [T]
    length: jax.Array  # int32 []


class Commands(NamedTuple):
    """The commands of a state, one per slot of the action axis."""

    ids: jax.Array  # int32 [A, L], right-padded
    length: jax.Array  # int32 [A]
    mask: jax.Array  # bool [A], admissible and first of its duplicates


class Trie(NamedTuple):
    """The commands of a state with common prefixes merged.

    A node stands for one token after a given prefix. Parents come before their
    children. Depth counts from 0, for the first token of a command.
    """

    ids: jax.Array  # int32 [N], token of each node
    depth: jax.Array  # int32 [N]
    parent: jax.Array  # int32 [N], -1 where the parent is the prompt
    mask: jax.Array  # bool [N], node is in use
    ancestors: jax.Array  # bool [N, N], row descends from (or is) column
    path: jax.Array  # int32 [A, L], node of each token of each command; N if none
    last: jax.Array  # int32 [A], node of the last token; N for a masked command
    command_mask: jax.Array  # bool [A]


class Outcome(NamedTuple):
    """What one environment says of one step, before any reset."""

    reward: jax.Array  # float32 []
    terminated: jax.Array  # bool [], success; also on the last allowed step
    truncated: jax.Array  # bool [], out of steps without success
    achieved: jax.Array  # bool [G], single goals that hold after the step


class TimeStep(NamedTuple):
    """One step of an environment that resets itself.

    `reached` is where the step led, before any reset: for targets, n-step returns
    and values. `obs` is where the next step starts, after it: for acting.
    """

    obs: Observation
    reached: Observation
    reward: jax.Array  # float32 []
    terminated: jax.Array  # bool []
    truncated: jax.Array  # bool []
    achieved: jax.Array  # bool [G]


@flax.struct.dataclass
class Transition:
    """An n-step item of the replay.

    `reward` is sum_{i<m} gamma^i r_{t+i} over its m <= n steps; `discount` is
    gamma^m, or 0 where the last of them terminated the episode.
    """

    obs: Observation
    action: jax.Array  # int32 []
    reward: jax.Array  # float32 []
    discount: jax.Array  # float32 []
    reached: Observation


class Episode(NamedTuple):
    """One logged attempt, on the host; a token's place is its index in `ids`.

    `step` numbers the reasoning steps, or turns, that tokens of the policy belong to.
    """

    ids: np.ndarray  # int32 [T], prompt, then answer; observations between answers
    action: np.ndarray  # bool [T], the policy said this token; its end token included
    step: np.ndarray  # int32 [T], from 0 on, never falling; -1 where not an action
    reward: float  # of the whole episode
    task: str  # episodes of one problem share it
    source: str  # where the log has it from; "" if it does not say
    line: int  # of its log, from 1 on
    log_probs: np.ndarray | None = None  # float32 [T], of the policy that sampled
    log: str = ""  # its file, where several are read


class Packed(NamedTuple):
    """A batch of texts, several of them in a row, and the actions in them.

    A device has R rows of T tokens, and E texts with at most L actions each. Where
    texts are compared, those of one comparison stand next to each other. Texts of a row
    that begin alike may have their beginning in common: it is a segment of its own.
    """

    ids: jax.Array  # int32 [R, T]
    position: jax.Array  # int32 [R, T], in its own text
    segment: jax.Array  # int32 [R, T], number of the text in its row; 0 is padding
    at: jax.Array  # int32 [E, L], row * T + column of the token before an action
    action: jax.Array  # int32 [E, L], the tokens that the policy said
    mask: jax.Array  # bool [E, L], there is an action
    step: jax.Array  # int32 [E, L], number of the step it belongs to
    reward: jax.Array  # float32 [E]
    line: jax.Array  # int32 [E], of the log it is from; -1 for none
    begun: jax.Array | None = None  # int32 [R, T], segment seen beside the own; 0: none
