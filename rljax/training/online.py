"""A step of on-line learning: answers to problems, judged, learnt from, and kept.

    problems -> starts -> answers -> verdicts -> reading -> targets -> updates -> memory

Where the agent is fresh its one update is all the reading there is, but for the entropy
that replay may ask for, and now and then the divergence from the reference. The update
is the same program with and without.

Between two steps the host carries what is not the agent's: what came of bare tries,
and the memory of replay where there is one. What a step does is a function of the
config, the seed and the number of the step, so that a resumed run equals one that was
never stopped.

Shape letters: N problems, B groups of a step, G answers of each, M = B G, T most tokens
of an answer.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rljax.agents import rrl
from rljax.agents.offline import State
from rljax.agents.token_rl import Rollout, batch_of
from rljax.replay import archive, schedule
from rljax.replay.cells import States
from rljax.rollout import answers as answers_lib
from rljax.rollout.answers import Answers, Verdicts
from rljax.training.online_parts import Host, Parts, Told, order
from rljax.training.online_texts import (
    Programs,
    Readings,
    compile_all,
    items_of,
    numbered,
    packed,
    read_all,
    text_of,
    unanswered,
    values_of,
)

Carried = tuple[State, Host]


def make(parts: Parts) -> Callable[[Carried], tuple[Carried, Told]]:
    """The function that takes a step.

    Args:
      parts: of the run.

    Returns:
      (agent's state, host) -> ((the same, after the step), metrics). The agent's state
      is given away.

    Raises:
      ValueError: if sizes do not divide, or a fresh agent has more than one update.
    """
    sizes, devices = parts.sizes, parts.parallel.sharers
    for name, total, part in (
        ("groups", sizes.groups, sizes.batch_groups),
        ("batch_groups", sizes.batch_groups, devices),
    ):
        if total % part:
            raise ValueError(f"{name} is {total}, which {part} cannot share evenly")
    fresh, replay = parts.agent.fresh, parts.replay
    if fresh and sizes.updates != sizes.steps:
        raise ValueError(
            f"the agent is fresh, but has {sizes.updates / sizes.steps:g} updates a "
            "step: all but the first have moved from the policy that sampled"
        )
    reads = not fresh or (replay is not None and replay.entropy)
    programs = compile_all(parts)

    def step(carried: Carried) -> tuple[Carried, Told]:
        state, host = carried
        number = int(host.counts[0])
        state, host, told = _prepared(parts, programs, state, host, number)
        host, starts, rho = _starts(parts, host, number)
        found = _sampled(parts, state, starts, number)
        truths = [parts.problems[i].answer for i in found.start.problem]
        verdicts = answers_lib.judge(
            parts.judge, text_of(parts.tokenizer), found, truths
        )
        if verdicts.failure:
            failed, late = np.sum(~verdicts.judged), np.sum(verdicts.timed_out)
            print(
                f"the verifier failed {failed} times, {late} of them for want of time; "
                f"first: {verdicts.failure}",
                flush=True,
            )
        items = items_of(parts, found)
        read: Readings = {}
        if reads:
            state, read = read_all(parts, programs.read, state, items)
        held = _rollout(parts, found, verdicts, read, number)
        targets, more = jax.device_get(programs.estimate(held))
        told |= more
        told |= look(found, verdicts, host, rho)
        told |= {} if fresh else thought(found, read)
        if programs.kl is not None and (number + 1) % sizes.kl_every == 0:
            state, apart = read_all(parts, programs.kl, state, items)
            told["rollout/kl"] = _mean(apart["kl"], found.sampled)
        host = _noted(host, found, verdicts)
        if parts.replay is not None:
            host, more = _remembered(
                parts, parts.replay, host, starts, found, verdicts, read, targets, told,
                number,
            )  # fmt: skip
            told |= more
        state, more = _updated(parts, programs, state, items, held, targets, number)
        told |= more
        if parts.replay is not None and (number + 1) % sizes.refresh == 0:
            state, host, more = _refreshed(parts, parts.replay, programs, state, host)
            told |= more
        return (state, host), told | _counted(state, host)

    return step


def _prepared(
    parts: Parts, programs: Programs, state: State, host: Host, number: int
) -> tuple[State, Host, Told]:
    """What comes into the archive other than by rollouts; metrics where something did.

    Seeds come when the critic has warmed up: before it nothing is replayed, and what
    it says means nothing.
    """
    told: Told = {}
    if host.memory is None or parts.replay is None:
        return state, host, told
    memory = host.memory
    if parts.seeds is not None and number == parts.sizes.warmup:
        held, value = _valued(parts, programs, state)
        memory, more = rrl.seed(parts.replay, memory, parts.seeds, value, number)
        state, told = held[0], told | more
    taken = host.taken
    if parts.annotate is not None:
        found = parts.annotate(memory.archive, int(taken), number)
        memory = dataclasses.replace(memory, archive=found.archive)
        taken, told = np.array(found.last, taken.dtype), told | found.told
    return state, dataclasses.replace(host, memory=memory, taken=taken), told


def _starts(parts: Parts, host: Host, number: int) -> tuple[Host, States, float]:
    sizes = parts.sizes
    problems = order(
        sizes.seed, len(parts.problems), number * sizes.groups, sizes.groups
    )
    if parts.replay is None or host.memory is None:
        return host, archive.bare(problems, 1), 0.0
    memory, starts, rho = rrl.choose(
        parts.replay, host.memory, host.history, problems, number
    )
    return dataclasses.replace(host, memory=memory), starts, rho


def _sampled(parts: Parts, state: State, starts: States, number: int) -> Answers:
    sizes = parts.sizes
    _, sampling = jax.random.split(jax.random.key(sizes.seed))  # the first is init's
    key = jax.random.fold_in(sampling, number)
    return answers_lib.sample(
        parts.generate, parts.agent.policy(state),
        [parts.prompts[i] for i in starts.problem], starts,
        jax.random.split(key, sizes.groups), group=sizes.samples,
        longest=sizes.longest, temperature=sizes.temperature,
    )  # fmt: skip


def _rollout(
    parts: Parts, found: Answers, verdicts: Verdicts, read: Readings, number: int
) -> Rollout:
    fresh = parts.agent.fresh
    return Rollout(
        # A fresh agent's update must not depend on whether replay had it read.
        log_p=jnp.asarray(found.log_prob if fresh else read["log_prob"]),
        log_p_ref=None if fresh else jnp.asarray(read["reference_log_prob"]),
        value=jnp.asarray(read["value"]) if "value" in read else None,
        mask=jnp.asarray(found.sampled),
        reward=jnp.asarray(verdicts.right, jnp.float32),
        judged=jnp.asarray(verdicts.judged),
        replayed=jnp.asarray(found.start.replayed),
        warming=jnp.asarray(number < parts.sizes.warmup),
    )


def _updated(
    parts: Parts, programs: Programs, state: State, items, held, targets, number: int
) -> tuple[State, Told]:
    """All updates of a step; metrics are their means."""
    sizes, rows = parts.sizes, []
    for epoch in range(sizes.epochs):
        rng = np.random.default_rng([sizes.seed, 3, number, epoch])
        places = rng.permutation(sizes.groups)
        for first in range(0, sizes.groups, sizes.batch_groups):
            some = [items[i] for i in places[first : first + sizes.batch_groups]]
            texts, _ = packed(parts, some, sizes.batch_groups, sizes.longest)
            state, _, told = programs.update(state, batch_of(texts, held, targets))
            rows.append(told)
    rows = jax.device_get(rows)  # once: no update waits for the host
    return state, {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _noted(host: Host, found: Answers, verdicts: Verdicts) -> Host:
    """What came of tries, which problems were ever solved, what was sampled."""
    bare = ~found.start.replayed & verdicts.judged
    again = found.start.replayed & verdicts.judged
    solved, replayed = host.solved.copy(), host.replayed.copy()
    solved[found.start.problem[verdicts.right]] = True
    for column, some in enumerate((again, again & verdicts.right)):
        np.add.at(replayed[:, column], found.start.problem[some], 1)
    more = [1, len(found.length), int(found.length.sum())]
    return dataclasses.replace(
        host,
        history=schedule.note(
            host.history, found.start.problem[bare], verdicts.right[bare]
        ),
        solved=solved,
        replayed=replayed,
        counts=host.counts + np.array(more, np.int64),
    )


def _remembered(
    parts, replay, host, starts, found, verdicts, read, targets, told, number
) -> tuple[Host, Told]:
    seen = rrl.Found(
        starts=starts,
        each=found.start,
        tokens=found.tokens,
        length=found.length,
        step=numbered(parts, found),
        unanswered=unanswered(parts, found),
        right=verdicts.right,
        judged=verdicts.judged,
        entropy=read.get("entropy"),
        value=read.get("value"),
        returns=targets.score,
        explained=told.get("critic/explained_variance"),
        warming=number < parts.sizes.warmup,
    )
    memory, more = rrl.remember(replay, host.memory, host.history, seen, number)
    more |= rrl.look(memory, number)
    return dataclasses.replace(host, memory=memory), more


def _refreshed(
    parts, replay, programs, state, host
) -> tuple[State, Host, dict[str, float]]:
    held, value = _valued(parts, programs, state)
    memory, told = rrl.refresh(replay, host.memory, host.history, value)
    return held[0], dataclasses.replace(host, memory=memory), told


def _valued(
    parts: Parts, programs: Programs, state: State
) -> tuple[list[State], Callable[[States], np.ndarray] | None]:
    """V of states by the present critic, if there is one, and who holds the agent."""
    held = [state]  # each call gives it away and takes it back

    def value(states: States) -> np.ndarray:
        held[0], found = values_of(parts, programs, held[0], states)
        return found

    return held, None if programs.value is None else value


def look(found: Answers, verdicts: Verdicts, host: Host, rho: float) -> Told:
    """What a rollout was like.

    `rollout/distinct_right` is how many right answers differ: two to one problem do if
    a token does, what they were gone on from included.

    Args:
      found: the answers.
      verdicts: on them.
      host: before this step.
      rho: the share of replay.
    """
    replayed, right = found.start.replayed, verdicts.right
    problem = found.start.problem
    kept = {
        (problem[m], answers_lib.whole(found, int(m)).tobytes())
        for m in np.flatnonzero(right)
    }
    new = np.unique(problem[right & ~host.solved[problem]])
    prefix = found.start.length / (found.start.length + found.length)
    return {
        "rollout/right": _mean(right, verdicts.judged),
        "rollout/right_bare": _mean(right, verdicts.judged & ~replayed),
        "rollout/right_replayed": _mean(right, verdicts.judged & replayed),
        "rollout/distinct_right": float(len(kept)),
        "rollout/new_solved_per_1k": 1000 * len(new) / len(right),
        "rollout/length": float(found.length.mean()),
        "rollout/cut_short": float(np.mean(~found.stopped)),
        "rollout/verifier_failed": float(
            np.sum(~verdicts.judged & ~verdicts.timed_out)
        ),
        "rollout/verifier_timeouts": float(np.sum(verdicts.timed_out)),
        "replay/rho": rho,
        "replay/share": float(replayed.mean()),
        "replay/prefix_fraction": _mean(prefix, replayed),
    }


def thought(found: Answers, read: Readings) -> Told:
    """What the agent thought of a rollout before it learnt from it, means over tokens.

    Args:
      found: the answers.
      read: of `read_all`.
    """
    mask = found.sampled
    gap = np.abs(read["log_prob"] - found.log_prob)
    return {
        "rollout/entropy": _mean(read["entropy"], mask),
        "rollout/kl": _mean(read["kl"], mask),
        "rollout/sampler_gap": _mean(gap, mask),
    }


def _mean(x: np.ndarray, where: np.ndarray) -> float:
    return float(x[where].mean()) if where.any() else float("nan")


def _counted(state: State, host: Host) -> Told:
    steps, answers, tokens = (int(n) for n in host.counts)
    return {
        "updates": jnp.copy(state.updates),
        "tokens": tokens,
        "rollout/steps": steps,
        "rollout/answers": answers,
        "rollout/ever_solved": float(host.solved.mean()),
        "rollout/ever_solved_bare": float((host.history.solves > 0).mean()),
        "train/skipped": jnp.copy(state.skipped),
        "train/skipped_in_row": jnp.copy(state.skipped_in_row),
    }
