"""Small runs on problems, for tests of several files.

The model has random weights, and an answer is right if it has an even number of
characters: about half of those that end are, so that there is something to learn.
"""

import contextlib
import pathlib

import pytest

from experiments import border, grpo, ppo, reasoning, rrl

MAINS = {"grpo": grpo, "ppo": ppo, "rrl": rrl}
CONFIGS = pathlib.Path(__file__).parents[2] / "experiments" / "configs"
SMALL = (
    "--config.eval.problems=2",
    "--config.task.train_size=6",
    "--config.rollout.steps=3",
    "--config.log.checkpoint_every_updates=2",  # a step
    "--config.optimizer.learning_rate=1e-3",
)


@contextlib.contextmanager
def evenly():
    """Problems whose verifier counts characters, but for those of written solutions."""
    kind = reasoning.TASKS["arithmetic"]

    def verify(answer, said):
        return said.endswith(f"#### {answer}") if "####" in said else not len(said) % 2

    judge = kind.judge._replace(verify=verify)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(reasoning.TASKS, "arithmetic", kind._replace(judge=judge))
        yield


def run(method, workdir, *more):
    spec = f"--config={CONFIGS / method}.py:smoke"
    command = border.read_command([spec, "--workdir=x", *SMALL, *more])
    MAINS[method].main(command.config, str(workdir))
    return workdir


def rrl_config(*more):
    """The settings of a small run with replay, which is not taken."""
    return border.read_command(
        [f"--config={CONFIGS / 'rrl'}.py:smoke", "--workdir=x", *more]
    ).config


def same(a, b):
    """Rows are equal, NaN included."""
    assert a.keys() == b.keys()
    return all(a[k] == b[k] or (a[k] is None and b[k] is None) for k in a)
