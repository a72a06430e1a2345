"""A run of a toy state, to be killed: `python toy_run.py WORKDIR CALLS [SECONDS]`."""

import os
import pathlib
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import flax.struct  # noqa: E402  (the path must be set first)
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from rljax.training import loop, workdir  # noqa: E402

SIZE = 6
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.05))
KINDS = ("grasp", "grow")


@flax.struct.dataclass
class State:
    """Weights that follow noise, a ring of what was seen, and the counters."""

    params: dict
    opt_state: optax.OptState
    key: jax.Array
    ring: jax.Array  # bfloat16 [8]
    updates: jax.Array  # int32 []
    env_steps: jax.Array  # int32 []
    skipped: jax.Array  # int32 []
    in_row: jax.Array  # int32 []


def init() -> State:
    params = {"w": jnp.zeros(SIZE), "frozen": None}
    zero = jnp.int32(0)
    ring = jnp.zeros(8, jnp.bfloat16)
    opt_state = OPTIMIZER.init(params)
    return State(params, opt_state, jax.random.key(7), ring, zero, zero, zero, zero)


def iterate(state: State, poison_from: int = 10**6) -> tuple[State, dict]:
    """Two updates; those past `poison_from` meet a NaN and are skipped."""

    def one(state, _):
        key, draw = jax.random.split(state.key)
        target = jax.random.normal(draw, (SIZE,))
        bad = state.updates >= poison_from
        grad = jnp.where(bad, jnp.nan, state.params["w"] - target)
        step, opt_state = OPTIMIZER.update(
            {"w": grad, "frozen": None}, state.opt_state, state.params
        )
        moved = (optax.apply_updates(state.params, step), opt_state)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(bad, old, new),
            moved,
            (state.params, state.opt_state),
        )
        ring = jnp.roll(state.ring, 1).at[0].set(target[0].astype(jnp.bfloat16))
        return State(
            params=params,
            opt_state=opt_state,
            key=key,
            ring=ring,
            updates=state.updates + 1,
            env_steps=state.env_steps + 32,
            skipped=state.skipped + bad,
            in_row=jnp.where(bad, state.in_row + 1, 0),
        ), jnp.mean(jnp.square(grad))

    state, losses = jax.lax.scan(one, state, None, length=2)
    return state, {
        "updates": state.updates,
        "env_steps": state.env_steps,
        "train/loss": losses.mean(),
        "train/skipped": state.skipped,
        "train/skipped_in_row": state.in_row,
        "rollout/success": jnp.mean(state.params["w"] > 0),
    }


def evaluate(state: State, final: bool, pause) -> dict[str, float]:
    """One number for each kind of goal, in full at the ends and rounded between."""
    values = np.asarray(state.params["w"]).round(8 if final else 2)
    return {f"eval/train_sampled/{kind}": values[i] for i, kind in enumerate(KINDS)}


def program(pause: float = 0.0, **changes) -> loop.Program:
    compiled = jax.jit(iterate, donate_argnums=0)

    def slow(state):
        time.sleep(pause)
        return compiled(state)

    made = loop.Program(
        init=jax.jit(init),
        iterate=slow,
        evaluate=evaluate,
        evaluate_random=lambda state, pause: {
            f"eval/train_sampled/{kind}": 0.25 for kind in KINDS
        },
    )
    return made._replace(**changes)


def run(path, calls: int, resume="auto", made=None, say=print, **settings):
    """One run, or the next part of it."""
    opened = workdir.open_workdir(
        path, {"toy": 1, "calls": calls}, resume, {"calls"}, say=say
    )
    schedule = loop.Schedule(
        calls=calls,
        total_steps=64 * calls,
        **{"eval_every": 4, "save_every": 3, **settings},
    )
    return loop.train(made or program(), schedule, opened)


if __name__ == "__main__":
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    done = run(sys.argv[1], int(sys.argv[2]), made=program(seconds), save_every=1)
    print("stopped by", done.stopped_by)
