"""Settings that a run would not read are refused; others are read."""

import types
from typing import Any

import numpy as np
import pytest

from experiments import border, rrl, unread
from experiments.configs import online as scales
from rljax.replay import archive as lib
from rljax.replay import bandit, cells
from rljax.training.files import RunError
from tests.experiments.online_runs import CONFIGS, rrl_config, run
from tests.replay.archiving import filled


@pytest.mark.parametrize(
    ("method", "more", "said"),
    [
        ("ppo", "task.verifier_seconds=-1.0", "task.verifier_seconds is -1.0: it must "
         "be 10.0: task.verifier=exact judges in this process"),
        ("grpo", "task.verifier_workers=5", "task.verifier_workers is 5: it must be 2"),
        ("ppo", "loss.ratio=answer", "loss.ratio is 'answer': it must be 'token'"),
        ("rrl", "loss.ratio=answer", "loss.ratio is 'answer': it must be 'token'"),
        ("rrl", "base=grpo replay.explained=0.3", "replay.explained is 0.3: it must be "
         "0.0: base=grpo has no critic"),
        ("rrl", "replay.proven=2 replay.explained=0.3", "explained is 0.3: .*proven"),
        ("rrl", "replay.proven=2 replay.where=value", "replay.where is 'value': .*''"),
        ("rrl", "replay.proven=2 replay.score=group", "replay.score is 'group': .*''"),
        ("rrl", "replay.choice=visits replay.target=0.3", "target is 0.3: .* be 0.5: "),
        ("rrl", "replay.explore=0.3", "replay.explore is 0.3: it must be 0.2: "),
    ],
)  # fmt: skip
def test_what_would_not_be_read_is_refused(tmp_path, method, more, said):
    with pytest.raises(RunError, match=said):
        run(method, tmp_path / "x", *(f"--config.{one}" for one in more.split()))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("scale", scales.SCALES)
@pytest.mark.parametrize("method", ["ppo", "grpo", "rrl"])
def test_no_scale_is_refused(method, scale):
    unread.refuse(border.load_config(f"{CONFIGS / method}.py:{scale}"))


@pytest.mark.parametrize(
    "more",
    [
        "replay.where=value replay.score=group replay.explained=0.3 replay.target=0.3",
        "base=grpo replay.where=random loss.ratio=answer",
        "base=grpo replay.proven=2",
        "replay.choice=bandit replay.explore=0.5",
        "task.name=gym task.verifier=gym task.verifier_seconds=5.0",
    ],
)
def test_what_is_read_is_not_refused(more):
    unread.refuse(rrl_config(*(f"--config.{one}" for one in more.split())))


@pytest.mark.parametrize("chosen", ["alike", "visits", "difficulty", "bandit"])
def test_states_that_people_promoted_are_likelier(chosen):
    """Four times as likely, and without promoted ones nothing is otherwise."""
    start: Any = types.SimpleNamespace(eos_ids=(1,))
    there = filled((0, (1,), 0.5), (0, (2,), 0.5), (0, (3,), 0.5))
    arms = bandit.init(there)

    def weights_of(*more):
        config = rrl_config(f"--config.replay.choice={chosen}", *more)
        make = rrl.method_of(config).replay
        assert make is not None
        return lib.weights(there, 0, make(start).weigh(arms))

    plain = weights_of()
    assert (plain > 0).all()
    np.testing.assert_array_equal(weights_of("--config.replay.promoted=1.0"), plain)
    there.mark[0, 1] = cells.PROMOTED
    np.testing.assert_allclose(weights_of(), plain * [1, 4, 1])
    np.testing.assert_allclose(
        weights_of("--config.replay.promoted=2.0"), plain * [1, 2, 1]
    )
    with pytest.raises(RunError, match="replay.promoted is 0.5: it must be at least 1"):
        weights_of("--config.replay.promoted=0.5")
