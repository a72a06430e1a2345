"""What a run on a log leaves behind: table, summary, report, and the policy."""

import json
import pathlib
from typing import Any

from experiments import drift
from experiments.starts import Start
from rljax.agents.offline import OfflineAgent, State
from rljax.agents.token_rl import TokenAgent
from rljax.data import packing
from rljax.models import hf_folder, lora, model_card
from rljax.training import drift as drift_lib
from rljax.training import files, loop, metrics, report


def conclude(
    config: Any,
    path: pathlib.Path,
    method: Any,
    start: Start,
    agent: OfflineAgent,
    result: loop.Result,
    plan: packing.Plan,
) -> None:
    """Final table, summary, report, and the policy as a Hugging Face folder.

    Args:
      config: of the run.
      path: the workdir.
      method: an `offline.Method`.
      start: where it began.
      agent: what learnt.
      result: how it ended, with its evaluations.
      plan: how the log was read.
    """
    (before, after), position = successes(result), result.position
    print(metrics.final_table({}, before, after))
    alarms = drift_lib.alarms(result.after or {}, drift.limits_of(config))
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
        },
    )
    export(
        config, path, method, start, agent, result.state[0],
        data=f"{config.data.path or 'solutions of the task'}, "
        f"{position.axis:,} tokens in {position.updates:,} updates",
        task="greedy answers get right",
        reached={"before": before, "after": after},
    )  # fmt: skip


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
