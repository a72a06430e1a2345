"""Success in parts, by hand, and what the policy a run began as is a reference for."""

import jax
import numpy as np
import pytest

from experiments import drift, parts
from experiments.configs import offline as config
from experiments.reasoning import Outcomes
from rljax.agents import imitation
from rljax.agents.offline import Optimizer
from rljax.envs.reasoning.problems import Problem
from rljax.models.lora import LoraConfig
from rljax.policy import texts
from tests.agents import offline_texts as toy


def problem(steps):
    lines = [f"{n}+1={n + 1}" for n in range(steps)]
    return Problem("arithmetic/x", "?", "3", "\n".join([*lines, "#### 3"]))


FOUND = Outcomes(np.array([True, False, True, True]), np.array([2, 5, 9, 2]))


def test_success_by_kind_and_by_length():
    asked = [problem(1), problem(2), problem(2), problem(2)]
    assert parts.success("dev", "arithmetic", asked, FOUND, (3, 8)) == {
        "eval/dev_by_kind/arithmetic_1_step": 1.0,
        "eval/dev_by_kind/arithmetic_2_steps": pytest.approx(2 / 3),
        "eval/dev_by_length/arithmetic_short": 1.0,
        "eval/dev_by_length/arithmetic_middle": 0.0,
        "eval/dev_by_length/arithmetic_long": 1.0,
        "drift/share/length_short": 0.5,
        "drift/share/length_middle": 0.25,
        "drift/share/length_long": 0.25,
    }


def test_a_part_without_answers_has_no_success_and_one_kind_is_no_part():
    told = parts.success("dev", "arithmetic", [problem(2)] * 4, FOUND, (9, 12))
    assert [name for name in told if name.startswith("eval/")] == [
        "eval/dev_by_length/arithmetic_short"
    ]
    assert told["drift/share/length_long"] == 0.0


@pytest.mark.parametrize("adapter", [None, LoraConfig(rank=2, alpha=4.0)])
def test_what_imitation_begins_as_is_its_reference(adapter):
    settings = config.shared("smoke")
    settings.drift.batch = 4
    model = texts.make(toy.CONFIG, adapter)
    rate = Optimizer(learning_rate=1e-2, warmup=0.0)
    agent = imitation.make(
        model, imitation.Config(updates=9, actor=rate), adapter is not None
    )
    log, weights = toy.log(), toy.weights()
    watch = drift.make(settings, model, agent, log, 11, weights, {})
    state = agent.init(jax.random.key(settings.seed), weights)
    assert abs(watch.look(state)["drift/kl/all"]) < 1e-6
    update = jax.jit(agent.update)
    for _ in range(2):
        state, _ = update(state, toy.batch([(one,) for one in log]))
    readings, _ = watch.read(state)
    began, now = (toy.log_probs_of(w, log) for w in (weights, agent.policy(state)))
    for n, (one, reading) in enumerate(zip(watch.shown, readings, strict=True)):
        (said,) = np.nonzero(one.action)
        q, p = np.asarray(began)[n, said - 1], np.asarray(now)[n, said - 1]
        kl = np.sum(np.exp(p) * (p - q), axis=-1)
        np.testing.assert_allclose(reading.kl[: len(said)], kl, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(
            reading.reference_log_prob[: len(said)],
            q[np.arange(len(said)), one.ids[said]],
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip
