"""What a run on problems leaves behind: table, summary, report, and the policy."""

import pathlib
from typing import Any

from experiments import offline_end
from experiments.starts import Start
from rljax.agents.token_rl import TokenAgent
from rljax.training import files, loop, metrics


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
    before, after = offline_end.successes(result)
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
    offline_end.export(
        config, path, method, start, agent, state,
        data=f"{answers:,} answers of its own to {len(host.solved):,} problems, "
        f"{tokens:,} tokens, in {position.updates:,} updates",
        task="greedy answers get right, and pass@k of sampled ones",
        reached={"before": before, "after": after},
    )  # fmt: skip
