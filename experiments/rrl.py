"""Retrospective replay: PPO or GRPO that goes on from promising states found early.

    python -m experiments.rrl --config=experiments/configs/rrl.py:arithmetic \
        --workdir=runs/rrl --config.model.path=runs/sft/hf

`--config.base=grpo` takes GRPO in PPO's place, `--config.replay.share=0` is the base
itself, bit for bit.
"""

from typing import Any

from experiments import border, grpo, online, ppo
from experiments.border import AT_LEAST_ONE, POSITIVE, SHARE, ConfigError, Limit, pick
from rljax.agents import rrl
from rljax.replay import bandit, choice, promise, schedule
from rljax.training import online_texts

LIMITS = {
    "replay.cells": AT_LEAST_ONE,
    "replay.state_tokens": AT_LEAST_ONE,
    "replay.tail": Limit(0, 0.99),
    "replay.strength": POSITIVE,
    "replay.target": Limit(0.01, 0.99),
    "replay.explore": Limit(0, 1, above=True),
    "replay.promoted": AT_LEAST_ONE,
    "replay.explained": Limit(high=1),
    "replay.proposes_below": SHARE,
    "replay.refresh": AT_LEAST_ONE,
    "replay.dead_after": AT_LEAST_ONE,
    "replay.proven": Limit(0),
    "replay.canonical": Limit(0, 2),
}
BASES = {"ppo": ppo.method_of, "grpo": grpo.method_of}
WHERE = {
    "return": promise.by_return,
    "value": promise.by_value,
    "entropy": promise.by_entropy,
    "random": promise.at_random,
}
SCORES = {
    "return": promise.by_return,
    "value": promise.by_value,
    "group": promise.by_group,
}
OF_CRITIC = ("return", "value")  # what GRPO cannot say
CHOICES = {
    "visits": lambda replay, worth: lambda arms: choice.by_visits,
    "alike": lambda replay, worth: lambda arms: choice.alike,
    "difficulty": lambda replay, worth: (
        lambda arms: choice.by_difficulty(worth, target=replay.target)
    ),
    "bandit": lambda replay, worth: (
        lambda arms: bandit.by_progress(arms, replay.explore)
    ),
}


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    online.train(config, workdir, method_of(config))


def method_of(config: Any) -> online.Method:
    """The method with the settings of a config."""
    base = pick(BASES, config.base, "base")(config)
    replay = config.replay
    border.limits(config, LIMITS)
    border.require(
        replay.state_tokens < config.rollout.max_tokens, "replay.state_tokens",
        replay.state_tokens,
        f"below rollout.max_tokens, {config.rollout.max_tokens}: a state is no answer",
    )  # fmt: skip
    border.require(
        replay.canonical <= replay.cells, "replay.canonical", replay.canonical,
        f"at most replay.cells, {replay.cells}",
    )  # fmt: skip
    when = schedule.Config(
        updates=config.rollout.steps,
        share=float(replay.share),
        most=float(replay.most),
        first=base.warmup,
        ramp=float(replay.ramp),
        fade=float(replay.fade),
        solved_at=float(replay.solved_at),
        anywhere=bool(replay.anywhere),
    )
    try:
        schedule.check(when)
    except ValueError as error:
        raise ConfigError(f"config.replay: {error}") from error
    groups = config.rollout.groups
    border.require(
        when.share == 0 or schedule.most_groups(when, groups) > 0, "replay.most",
        replay.most, f"at least 1 of rollout.groups, {groups}: no group of a step "
        "would be replayed, and replay.share is above 0",
    )  # fmt: skip
    critic = config.base == "ppo"
    where = _signal(WHERE, replay.where, "where", critic, "return", "entropy")
    score = _signal(SCORES, replay.score, "score", critic, "return", "group")
    worth = choice.shrunk(float(replay.strength))
    weigh = pick(CHOICES, replay.choice, "replay.choice")(replay, worth)
    promoted = float(replay.promoted)

    def settings(start):
        return rrl.Settings(
            schedule=when,
            cells=replay.cells,
            longest=replay.state_tokens,
            where=where,
            score=score,
            worth=worth,
            weigh=lambda arms: choice.promoted_first(weigh(arms), promoted),
            end_ids=tuple(start.eos_ids),
            seed=config.seed,
            tail=replay.tail,
            proposes_below=replay.proposes_below,
            explained=replay.explained if critic else None,
            dead_after=replay.dead_after,
            proven=replay.proven,
            chains=score is promise.by_group and not replay.proven,
            rescore=bool(replay.rescore),
            # No score is made of it.
            entropy=where is promise.by_entropy and not replay.proven,
        )

    def seeds(start, task, judge):
        count = replay.canonical
        try:
            found, wrong = online_texts.seeds_of(
                task.train, start.tokenizer, start.eos_ids[0], count, replay.tail,
                judge, task.judge.answered,
            )  # fmt: skip
            if wrong:
                print(
                    f"{wrong:,} of {len(task.train):,} written solutions are not right "
                    "by the verifier: no states come from them"
                )
            return found
        except ValueError as error:
            raise ConfigError(
                f"config.replay.canonical is {count}, and {error}"
            ) from error

    return base._replace(
        name=f"RRL on {base.name}",
        replay=settings,
        seeds=seeds if replay.canonical else None,
        state_tokens=replay.state_tokens,
        refresh=replay.refresh,
    )


def _signal(table, name, key, critic: bool, with_critic: str, without: str):
    """What a setting names, or the default of the base."""
    name = name or (with_critic if critic else without)
    found = pick(table, name, f"replay.{key}")
    border.require(
        critic or name not in OF_CRITIC, f"replay.{key}", name,
        "another: GRPO has no critic that could say",
    )  # fmt: skip
    return found


if __name__ == "__main__":
    border.run(main, __doc__)
