"""Which steps earned the reward: a page on what a run thinks of logged answers.

    python -m experiments.credit --workdir=runs/oreo --data=runs/log.jsonl.gz \
        --out=runs/oreo/credit.html

Every token is coloured by the value V, by what it changes in V, by the log-ratio to the
reference policy, by the divergence from it, or by other numbers; the page switches.
Steps are ranked by what they change in V, and right and wrong answers to a problem
stand side by side. The run is any that learnt from a log; without a value, as with DPO,
steps are ranked by log-ratio, and after plain imitation by log-probability.
`--data=a.jsonl,b.jsonl` shows answers of several logs.

Problems with right and wrong answers come first, `--problems` of them with at most
`--each` answers of both kinds; `--task` shows the answers to one problem. Ends with 0,
or with 2 where it could not be made.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import config_dict

from experiments import border, credit_view, methods, offline, reasoning, run, starts
from rljax.agents import offline as agents
from rljax.agents.offline import OfflineAgent, Reading
from rljax.data import episodes, logs, packing, steps
from rljax.training import checkpoint, credit_page
from rljax.training.files import RunError, read_json
from rljax.types import Episode

_BATCH = 16  # episodes read at a time


class Run(NamedTuple):
    """A run that learnt from a log, as it stands in its newest checkpoint."""

    name: str
    update: int
    start: starts.Start
    agent: OfflineAgent
    state: agents.State
    method: str
    reference: bool  # whether it knows the policy it began as
    config: Any  # of the run


def main(words: Sequence[str]) -> int:
    """Writes the page; 2 where something can be mended, told in words."""
    given = _parser().parse_args(words)
    run.keep_compiled()
    try:
        for name in ("problems", "each"):
            if getattr(given, name) < 1:
                raise ValueError(
                    f"--{name}={getattr(given, name)}: it must be at least 1"
                )
        _write(given)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def open_run(workdir: str) -> Run:
    """Reads a run that learnt from a log.

    Args:
      workdir: its folder.

    Raises:
      RunError: if it is none, has no checkpoint, or began with other weights than its
        model has now.
    """
    path = pathlib.Path(workdir).expanduser()
    try:
        values = dict(read_json(path / "config.json")["config"])
        values["task"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is not the workdir of a run that learnt from a log"
        ) from error
    folder = path / "checkpoints"
    update = checkpoint.latest(folder)
    if update is None:
        raise RunError(f"{path} has no checkpoint yet")
    frozen = values.pop("frozen", None)
    config = config_dict.ConfigDict(values)
    start = starts.choose_start(config)
    method = methods.method_of(config)
    agent = method.agent(start, 1, None)
    weights = start.weights()
    shapes = jax.eval_shape(agent.init, jax.random.key(0), weights)
    if shapes.frozen is not None and checkpoint.digest(weights) != frozen:
        raise RunError(
            f"{path} learnt beside other weights than config.model.path, "
            f"{config.model.path!r}, now has: give that model back its files"
        )
    params = jax.tree.map(jnp.asarray, checkpoint.read_params(folder, update))
    zero = jnp.int32(0)
    state = agents.State(
        params, {}, zero, zero, zero, weights if shapes.frozen is not None else None
    )
    name = path.resolve().name
    return Run(name, update, start, agent, state, method.name, agent.reference, config)


def load(found: Run, path: str) -> list[Episode]:
    """The episodes of a log, in the steps that a run learnt by.

    Args:
      found: the run.
      path: of the log; several with a comma between two.

    Raises:
      LogError: as of `episodes.load`.
    """
    tokens = found.start.tokenizer
    split = steps.split(reasoning.delimiters_of(found.config))
    template, end_id = offline.template_of(tokens), found.start.eos_ids[0]
    paths = logs.named(path)
    return episodes.load(paths, tokens, template, split, end_id=end_id).episodes


def read(found: Run, log: Sequence[Episode]) -> list[Reading]:
    """What the run thinks of episodes, in their order.

    Args:
      found: the run.
      log: at least one episode.

    Returns:
      A reading of each, leaves float32 [L], on the host.
    """
    items = [(episode,) for episode in log]
    plan = packing.make_plan(items, min(_BATCH, len(items)), 1, 0)
    places = {id(item): n for n, item in enumerate(items)}
    ask = jax.jit(found.agent.read)
    readings: list[Any] = [None] * len(log)
    for n in range(plan.updates):
        batch = packing.batch_of(plan, n)
        told = jax.device_get(ask(found.state, packing.pack(plan, batch)))
        for row, item in enumerate(batch):
            readings[places[id(item)]] = jax.tree.map(lambda x, i=row: x[i], told)
    return readings


def _parser() -> argparse.ArgumentParser:
    parser = border.parser(__doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="DIR of a run that learnt from a log")
    add(
        "--data",
        required=True,
        help="a log: JSON lines, plain, .gz or .xz; several with a comma between two",
    )
    add("--out", help="FILE.html; credit.html in the workdir unless given")
    add(
        "--problems",
        type=int,
        default=credit_view.PROBLEMS,
        help="most problems that are shown",
    )
    add(
        "--each",
        type=int,
        default=credit_view.EACH,
        help="most right and most wrong answers",
    )
    add("--task", help="the name of the one problem to show")
    return parser


def _write(given: argparse.Namespace) -> None:
    found = open_run(given.workdir)
    tokens = found.start.tokenizer
    log = load(found, given.data)
    some = log
    if given.task is not None:
        some = [episode for episode in log if episode.task == given.task]
        if not some:
            raise RunError(f"--task={given.task}: {given.data} has no such problem")
    shown = credit_view.choose(some, given.problems, given.each)
    facts = credit_page.Facts(
        f"Credit in {found.name}",
        (
            f"{found.method}, after update {found.update:,}. Answers of {given.data}: "
            f"{len(shown.episodes):,} of {len(log):,} are shown.",
        ),
    )
    out = pathlib.Path(given.out or pathlib.Path(given.workdir, credit_view.NAME))
    out = out.expanduser()
    out.parent.mkdir(parents=True, exist_ok=True)
    level = found.config.get("level", "token")
    credit_view.write(
        out, facts, shown, read(found, shown.episodes), tokens, found.reference, level
    )
    print(out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
