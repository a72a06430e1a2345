"""Off-policy learning as a host loop: the peer of the compiled one.

Environments are Python objects, prompts and commands strings, the replay numpy
arrays. Written to be fast as such: all prompts of a step are tokenised in one call
of the Hugging Face tokenizer, commands are looked up in a table of tokens made once,
and acting and updating are jitted calls of fixed shapes, which the host does not wait
for before it needs their result. Same model, losses and settings as ours; items of
an episode are stored when it ends.

Shapes: E environments, A commands, P prompt tokens, L tokens of a command.
"""

import functools
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.host_playground import Environment, Rules, Seen
from rljax.agents.base import Agent
from rljax.envs.base import Sizes
from rljax.envs.playground.pieces import command_names
from rljax.models import decoder
from rljax.models.config import ModelConfig
from rljax.policy import score
from rljax.policy.networks import Networks
from rljax.text import tokenizer as tokenizer_lib
from rljax.text import trie
from rljax.training import off_policy
from rljax.training.evaluate import RANDOM, SAMPLED
from rljax.types import Commands, PyTree, Tokens, Trie


class Text(NamedTuple):
    """A batch of states as the model reads them."""

    prompt: Tokens  # [B, P]
    commands: Commands  # [B, A, L]


class Item(NamedTuple):
    """An n-step transition; in a ring, a column of each."""

    prompt: Any  # str
    rows: Any  # int16 [A], rows of the table of commands, -1 for none
    action: Any  # int
    reward: Any  # float
    discount: Any  # float
    reached_prompt: Any  # str
    reached_rows: Any  # int16 [A]


class Batch(NamedTuple):
    """What an update reads: the fields of `rljax.types.Transition`."""

    obs: Text
    action: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    reached: Text


class Ring:
    """A numpy ring; the oldest item is overwritten."""

    def __init__(self, capacity: int, num_commands: int):
        """An empty ring."""
        rows = np.zeros((capacity, num_commands), np.int16)
        number = np.zeros(capacity, np.float32)
        text = np.empty(capacity, object)
        self.columns = Item(
            text, rows, np.zeros(capacity, np.int32), number, number.copy(),
            text.copy(), rows.copy(),
        )  # fmt: skip
        self.capacity, self.head, self.size = capacity, 0, 0

    def add(self, item: Item) -> None:
        """Writes one item."""
        for column, value in zip(self.columns, item, strict=True):
            column[self.head] = value
        self.head = (self.head + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)


class Episode:
    """The steps of an episode so far; states are one more than steps."""

    def __init__(self, seen: Seen, rows: np.ndarray):
        """No step yet."""
        self.bodies, self.rows = [seen.body], [rows]
        self.actions: list[int] = []
        self.achieved: list[list[int]] = []


class HostLoop:
    """Acts, stores, relabels, samples, updates; `seconds` says where the time goes."""

    def __init__(
        self,
        rules: Rules,
        tokenizer: tokenizer_lib.Tokenizer,
        sizes: Sizes,
        agent: Agent,
        config: off_policy.Config,
        num_objects: int,
        inventory: int,
        her_k: int,
    ):
        """E environments in their first scenes; `agent` reads `Text`."""
        self.rules, self.tokenizer, self.sizes = rules, tokenizer, sizes
        self.config, self.her_k = config, her_k
        names = list(dict.fromkeys(command_names(rules.world.names)))
        self.row_of = {name: row for row, name in enumerate(names)}
        # A last row for "none", where -1 points.
        words = tokenizer_lib.encode(tokenizer, [f" {name}" for name in names])
        self.command_length: Any = np.array([*map(len, words), 0], np.int32)
        self.command_ids: Any = np.zeros(
            (len(words) + 1, sizes.command_tokens), np.int32
        )
        for row, ids in zip(self.command_ids, words, strict=False):
            row[: len(ids)] = ids
        self.ring = Ring(config.capacity, sizes.commands)
        self.relabelled = Ring(config.relabelled_capacity, sizes.commands)
        self.rng, self.random = np.random.default_rng(0), random.Random(0)
        self.envs = [
            Environment(rules, num_objects, inventory, sizes.limit, seed)
            for seed in range(config.num_envs)
        ]
        self.seen = [env.begin() for env in self.envs]
        self.episodes = [Episode(seen, self._rows(seen)) for seen in self.seen]
        self.state = jax.jit(agent.init)(jax.random.key(0))
        self.key = jax.random.key(1)
        self.env_steps = 0
        self.act = jax.jit(functools.partial(_act, agent))
        self.update = jax.jit(agent.update, donate_argnums=0)
        self.params = agent.params
        self.seconds = dict.fromkeys(("model", "text", "environment", "replay"), 0.0)

    def iterate(self, count: int) -> PyTree:
        """Some iterations; the agent's state."""
        for _ in range(count):
            self._mark = time.perf_counter()
            self._step()
            if self.ring.size >= self.config.min_size:
                for _ in range(self.config.updates_per_iteration):
                    self._learn()
        return self.state

    def read(self, prompts: Sequence[str], rows: Any) -> Text:
        """Strings and rows of commands [B, A] as padded ids."""
        encoded = self.tokenizer(
            list(prompts), add_special_tokens=False, return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]  # fmt: skip
        ids: Any = np.zeros((len(prompts), self.sizes.prompt_tokens), np.int32)
        for row, tokens in zip(ids, encoded, strict=True):
            row[: len(tokens)] = tokens
        length: Any = np.array([len(tokens) for tokens in encoded], np.int32)
        commands = Commands(
            self.command_ids[rows], self.command_length[rows], rows >= 0
        )
        return Text(Tokens(ids, length), commands)

    def _lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self._mark
        self._mark = now

    def _step(self) -> None:
        texts = self.rules.goals.texts
        prompts = [
            _prompt(texts[env.goal], seen.body)
            for env, seen in zip(self.envs, self.seen, strict=True)
        ]
        text = self.read(prompts, np.stack([e.rows[-1] for e in self.episodes]))
        self._lap("text")
        exploring = self.env_steps < self.config.random_steps
        chosen, self.key = self.act(
            self.params(self.state), text, self.key, RANDOM if exploring else SAMPLED
        )
        actions = np.asarray(chosen).tolist()
        self._lap("model")
        finished = []
        for index, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            episode = self.episodes[index]
            result = env.step(self.seen[index].commands[action])
            seen = env.see()
            episode.actions.append(action)
            episode.achieved.append(result.achieved)
            episode.bodies.append(seen.body)
            episode.rows.append(self._rows(seen))
            if result.success or result.truncated:
                finished.append((episode, env.goal, result.success))
                seen = env.begin()
                self.episodes[index] = Episode(seen, self._rows(seen))
            self.seen[index] = seen
        self.env_steps += len(self.envs)
        self._lap("environment")
        for episode, goal, success in finished:
            last = len(episode.actions) - 1
            self._store(self.ring, episode, goal, last, success)
            for other, hit in self._chosen(episode, goal):
                self._store(self.relabelled, episode, other, hit, True)
        self._lap("replay")

    def _learn(self) -> None:
        config = self.config
        wanted = self.rng.random(config.batch_size) < config.her_ratio
        count = int(wanted.sum()) if self.relabelled.size else 0
        parts = []
        for ring, size in (
            (self.ring, config.batch_size - count),
            (self.relabelled, count),
        ):
            slots = self.rng.integers(0, max(ring.size, 1), size)
            parts.append([column[slots] for column in ring.columns])
        item = Item(*[np.concatenate(pair) for pair in zip(*parts, strict=True)])
        self._lap("replay")
        # Both states of every item in one call of the tokenizer.
        both = self.read(
            [*item.prompt, *item.reached_prompt],
            np.concatenate([item.rows, item.reached_rows]),
        )
        obs, reached = (
            jax.tree.map(lambda x, s=part: x[s], both)
            for part in (slice(config.batch_size), slice(config.batch_size, None))
        )
        batch = Batch(obs, item.action, item.reward, item.discount, reached)
        self._lap("text")
        self.state, _ = self.update(self.state, batch)
        self._lap("model")

    def _rows(self, seen: Seen) -> np.ndarray:
        rows = np.full(self.sizes.commands, -1, np.int16)
        found = [self.row_of[command.text] for command in seen.commands]
        rows[: len(found)] = found
        return rows

    def _chosen(self, episode: Episode, own: int) -> list[tuple[int, int]]:
        """Training goals reached, and when first; kinds alike, none twice."""
        hits: dict[int, int] = {}
        for step, achieved in enumerate(episode.achieved):
            for goal in achieved:
                hits.setdefault(goal, step)
        goals = self.rules.goals
        kinds: list[list[int]] = [[], []]
        for goal in hits:
            if goals.train[goal] and goal != own:
                kinds[goals.kind[goal]].append(goal)
        chosen = []
        while len(chosen) < self.her_k and (left := [kind for kind in kinds if kind]):
            group = self.random.choice(left)
            goal = group.pop(self.random.randrange(len(group)))
            chosen.append((goal, hits[goal]))
        return chosen

    def _store(
        self, ring: Ring, episode: Episode, goal: int, last: int, success: bool
    ) -> None:
        """The n-step items of steps 0 to `last` under a goal."""
        text, gamma = self.rules.goals.texts[goal], self.config.gamma
        prompts = [_prompt(text, body) for body in episode.bodies[: last + 2]]
        for step in range(last + 1):
            span = min(self.config.n_step, last + 1 - step)
            won = success and step + span - 1 == last
            ring.add(
                Item(
                    prompts[step],
                    episode.rows[step],
                    episode.actions[step],
                    gamma ** (span - 1) if won else 0.0,
                    0.0 if won else gamma**span,
                    prompts[step + span],
                    episode.rows[step + span],
                )
            )


def read_tries(num_nodes: int):
    """How an agent reads `Text`: as tries, built inside its jitted call."""

    def read(text: Text) -> tuple[Tokens, Trie]:
        build = functools.partial(trie.build, num_nodes=num_nodes)
        return text.prompt, jax.vmap(build)(text.commands)

    return read


def one_sequence_each(networks: Networks, config: ModelConfig, eos_id: int) -> Networks:
    """The same model, run over prompt + command for every command.

    What stands for the tries is the commands, [B, A, L].
    """
    model = decoder.Decoder(config)

    def rows(commands: Commands) -> Trie:
        """A trie of one command each, [B * A]."""
        b, a, n = commands.ids.shape
        alone = jax.tree.map(lambda x: x.reshape(b * a, 1, *x.shape[2:]), commands)
        return jax.vmap(lambda command: trie.build(command, n))(alone)

    def encode(trunk, prompt, commands):
        count = commands.ids.shape[1]
        prompts = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), prompt)
        return score.encode(model, trunk, prompts, rows(commands))

    def log_policy(trunk, hidden, commands):
        logits = decoder.logits(trunk, hidden, config)
        scores = score.command_log_probs(logits, rows(commands), eos_id)
        return score.log_policy(scores.reshape(commands.mask.shape), commands.mask)

    def q(head, hidden, commands):
        return networks.q(head, hidden, rows(commands)).reshape(commands.mask.shape)

    return networks._replace(encode=encode, log_policy=log_policy, q=q)


def _act(agent: Agent, params: PyTree, text: Text, key, temperature):
    key, act_key = jax.random.split(key)
    keys = jax.random.split(act_key, text.prompt.length.shape[0])
    return agent.act(params, text, keys, temperature).command, key


def _prompt(goal: str, body: str) -> str:
    return f"Goal: {goal}\n{body}"
