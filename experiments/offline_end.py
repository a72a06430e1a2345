"""What a run on a log leaves behind: table, summary, report, and the policy."""

import json
import pathlib
from typing import Any

from experiments import credit_view, drift
from experiments.starts import Start
from rljax.agents.offline import OfflineAgent, State
from rljax.agents.token_rl import TokenAgent
from rljax.data import packing
from rljax.models import hf_folder, lora, model_card
from rljax.training import credit_page, files, loop, metrics, report
from rljax.training import drift as drift_lib


def conclude(
    config: Any,
    path: pathlib.Path,
    method: Any,
    start: Start,
    agent: OfflineAgent,
    result: loop.Result,
    plan: packing.Plan,
    watch: drift.Watch,
) -> None:
    """Final table, summary, credit page, report, and the policy as a folder.

    Args:
      config: of the run.
      path: the workdir.
      method: an `offline.Method`.
      start: where it began.
      agent: what learnt.
      result: how it ended, with its evaluations.
      plan: how the log was read.
      watch: what looked at the log.
    """
    (before, after), position = successes(result), result.position
    print(metrics.final_table({}, before, after))
    readings, _ = watch.read(result.state[0])
    tasks = drift_lib.farthest(watch.shown, readings) if watch.shown else []
    if tasks:
        said = (f"{one.task} {one.kl:.3g} ({one.answers})" for one in tasks)
        print(f"farthest from the reference, nats a token (answers): {', '.join(said)}")
    alarms = drift_lib.alarms(
        _bounded(config, agent, result.after or {}), drift.limits_of(config), tasks
    )
    print("\n".join(f"alarm: {alarm}" for alarm in alarms) or "no alarm of drift")
    files.write_json(
        path / "summary.json",
        {
            "before": before,
            "after": after,
            "train_seconds": round(position.train_seconds, 3),
            "tokens": position.axis,
            "updates": position.updates,
            "items": len(plan.items),
            "alarms": alarms,
            "farthest": [one._asdict() for one in tasks],
        },
    )
    _credit(config, path, method, start, watch, readings, position.updates)
    export(
        config, path, method, start, agent, result.state[0],
        data=f"{config.data.path or 'solutions of the task'}, "
        f"{position.axis:,} tokens in {position.updates:,} updates",
        task="greedy answers get right",
        reached={"before": before, "after": after},
    )  # fmt: skip


def _bounded(config: Any, agent: OfflineAgent, after: metrics.Row) -> metrics.Row:
    """What limits apply to: leaving random weights behind is no cause for alarm."""
    if agent.reference or config.model.path:
        return after
    return {k: v for k, v in after.items() if k == "drift/unseen"}


def _credit(config, path, method, start, watch, readings, updates) -> None:
    """A page on the sample of the log, where there are a sample and a value of it."""
    if not readings or readings[0].value is None:
        return
    shown = credit_view.choose(watch.shown)
    facts = credit_page.Facts(
        f"Credit in {path.resolve().name}",
        (
            f"{method.name}, after update {updates:,}. {len(shown.episodes):,} of "
            f"{len(watch.shown):,} answers, a sample of the log, are shown; "
            "experiments.credit shows others.",
        ),
    )
    credit_view.write(
        path / credit_view.NAME, facts, shown, [readings[n] for n in shown.chosen],
        start.tokenizer, True, config.get("level", "token"),
    )  # fmt: skip
    print(f"credit: {path / credit_view.NAME}")


def successes(result: loop.Result) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was evaluated before and after a run, by the last part of its name."""
    before, after = (
        {k.rpartition("/")[2]: v for k, v in (row or {}).items() if "eval/" in k}
        for row in (result.before, result.after)
    )
    return before, after


def export(
    config: Any,
    path: pathlib.Path,
    method: Any,
    start: Start,
    agent: OfflineAgent | TokenAgent,
    state: State,
    *,
    data: str,
    task: str,
    reached: dict[str, Any],
) -> None:
    """The policy as a Hugging Face folder with its card, and the report.

    Args:
      config: of the run.
      path: the workdir.
      method: with `name` and `extras`, as an `offline.Method`.
      start: where it began.
      agent: what learnt.
      state: of the agent at the end.
      data: what was learnt from, for the card.
      task: of which problems of the split the card tells the share.
      reached: metrics before and after, for the card.
    """
    record = files.read_json(path / "config.json")
    settings = json.dumps(record["config"], indent=2)
    facts = model_card.Facts(
        name=path.resolve().name,
        base_model=config.model.path or start.origin,
        method=method.name,
        command=record.get("command", ""),
        seeds=(config.seed,),
        data=data,
        task=f"{config.task.name}: share of {config.eval.split} problems that {task}",
        metrics=reached,
        versions=record["versions"],
        notes=f"## Settings\n\n```json\n{settings}\n```",
    )

    def card(part: pathlib.Path) -> None:
        (part / "README.md").write_text(model_card.text(facts), encoding="utf-8")

    hf_folder.save(
        path / "hf", lora.fold(agent.policy(state), start.config),
        start.config, start.tokenizer, eos_ids=start.eos_ids,
        extras=[card, *method.extras(start, state)],
    )  # fmt: skip
    print(f"policy: {path / 'hf'}")
    print(f"report: {report.build(path)}")
