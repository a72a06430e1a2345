"""What a run on problems leaves behind: table, summary, report, and the policy."""

import json
import pathlib
from typing import Any

from experiments.starts import Start
from rljax.agents.token_rl import TokenAgent
from rljax.models import hf_folder, lora, model_card
from rljax.training import files, loop, metrics, report


def conclude(
    config: Any,
    path: pathlib.Path,
    method: Any,
    start: Start,
    agent: TokenAgent,
    result: loop.Result,
) -> None:
    """Final table, summary, report, and the policy as a Hugging Face folder.

    Args:
      config: of the run.
      path: the workdir.
      method: an `online.Method`.
      start: where it began.
      agent: what learnt.
      result: how it ended, with its evaluations.
    """
    before, after = (
        {k.rpartition("/")[2]: v for k, v in (row or {}).items() if "eval/" in k}
        for row in (result.before, result.after)
    )
    position, (state, host) = result.position, result.state
    print(metrics.final_table({}, before, after))
    steps, answers, tokens = (int(n) for n in host.counts)
    summary = {
        "before": before,
        "after": after,
        "train_seconds": round(position.train_seconds, 3),
        "tokens": tokens,  # sampled; those of replayed states are only read
        "answers": answers,
        "steps": steps,
        "updates": position.updates,
        "problems": len(host.solved),
        "ever_solved": int(host.solved.sum()),
        "ever_solved_bare": int((host.history.solves > 0).sum()),
    }
    files.write_json(path / "summary.json", summary)
    print(
        f"problems ever solved: {summary['ever_solved']:,} of {len(host.solved):,}, "
        f"{summary['ever_solved_bare']:,} from the bare problem"
    )
    text = _card(config, path, method, start, summary)

    def card(part: pathlib.Path) -> None:
        (part / "README.md").write_text(text, encoding="utf-8")

    hf_folder.save(
        path / "hf", lora.fold(agent.policy(state), start.config), start.config,
        start.tokenizer, eos_ids=start.eos_ids,
        extras=[card, *method.extras(start, state)],
    )  # fmt: skip
    print(f"policy: {path / 'hf'}")
    print(f"report: {report.build(path)}")


def _card(config, path, method, start, summary: dict[str, Any]) -> str:
    record = files.read_json(path / "config.json")
    settings = json.dumps(record["config"], indent=2)
    facts = model_card.Facts(
        name=path.resolve().name,
        base_model=config.model.path or start.origin,
        method=method.name,
        command=record.get("command", ""),
        seeds=(config.seed,),
        data=f"{summary['answers']:,} answers of its own to {summary['problems']:,} "
        f"problems, {summary['tokens']:,} tokens, in {summary['updates']:,} updates",
        task=f"{config.task.name}: share of {config.eval.split} problems that greedy "
        "answers get right, and pass@k of sampled ones",
        metrics={"before": summary["before"], "after": summary["after"]},
        versions=record["versions"],
        notes=f"## Settings\n\n```json\n{settings}\n```",
    )
    return model_card.text(facts)
