"""What a run on a log leaves behind: table, summary, report, and the policy."""

import json
import pathlib
from typing import Any

from experiments import drift
from experiments.starts import Start
from rljax.agents.offline import OfflineAgent
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
    before, after = (
        {k.rpartition("/")[2]: v for k, v in (row or {}).items() if "eval/" in k}
        for row in (result.before, result.after)
    )
    position = result.position
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
    text = _card(config, path, method, start, position, before, after)

    def card(part: pathlib.Path) -> None:
        (part / "README.md").write_text(text, encoding="utf-8")

    hf_folder.save(
        path / "hf", lora.fold(agent.policy(result.state[0]), start.config),
        start.config, start.tokenizer, eos_ids=start.eos_ids,
        extras=[card, *method.extras(start, result.state[0])],
    )  # fmt: skip
    print(f"policy: {path / 'hf'}")
    print(f"report: {report.build(path)}")


def _card(config, path, method, start, position, before, after) -> str:
    record = files.read_json(path / "config.json")
    settings = json.dumps(record["config"], indent=2)
    facts = model_card.Facts(
        name=path.resolve().name,
        base_model=config.model.path or start.origin,
        method=method.name,
        command=record.get("command", ""),
        seeds=(config.seed,),
        data=f"{config.data.path or 'solutions of the task'}, "
        f"{position.axis:,} tokens in {position.updates:,} updates",
        task=f"{config.task.name}: share of {config.eval.split} problems that greedy "
        "answers get right",
        metrics={"before": before, "after": after},
        versions=record["versions"],
        notes=f"## Settings\n\n```json\n{settings}\n```",
    )
    return model_card.text(facts)
