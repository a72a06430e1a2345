"""What every training experiment does around its compiled program."""

import dataclasses
import errno
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import border, episodes, playground
from rljax.agents.base import NONFINITE_LIMIT, Agent
from rljax.training import checkpoint, devices, files, loop, metrics, report, workdir
from rljax.types import Metrics, PyTree

MAY_DIFFER = frozenset({"total_env_steps", "parallel", "num_devices", "resume"})
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES}
PARALLEL = {
    "jit": lambda count: devices.jit(),
    "pmap": devices.pmap,
    "mesh": devices.mesh,
}


class Method(NamedTuple):
    """A learning method on a task, ready to run.

    Attributes:
      agent: its functions.
      program: (agent state, local) -> (same, same, metrics), for one device.
      init_local: (key, index of the device) -> the local state of that device.
      redistribute: (local of all devices, their number, new number) -> local.
      steps_per_call: environment steps of one compiled call, all devices.
      updates_per_call: most updates of one compiled call.
    """

    agent: Agent
    program: devices.Program
    init_local: Callable[[jax.Array, int], PyTree]
    redistribute: Callable[[PyTree, int, int], PyTree]
    steps_per_call: int
    updates_per_call: int


def parallel_of(config: Any) -> devices.Parallel:
    """How the flags say to spread the run.

    Raises:
      ConfigError: for an unknown way, more devices than there are, or a number of
        them with jit.
    """
    make = border.pick(PARALLEL, config.parallel, "parallel")
    border.require(
        config.parallel != "jit" or config.num_devices in (0, 1),
        "num_devices", config.num_devices, "0 or 1 with config.parallel=jit",
    )  # fmt: skip
    try:
        return make(config.num_devices or None)
    except ValueError as error:
        raise border.ConfigError(f"config.num_devices: {error}") from error


def train(
    config: Any,
    folder: str,
    task: playground.Task,
    make_method: Callable[[devices.Parallel], Method],
) -> None:
    """Runs a method to its end, or until a signal, and writes everything down.

    Args:
      config: of the experiment; its shared part is read here.
      folder: the workdir.
      task: what is learnt.
      make_method: the method on so many devices.

    Raises:
      RunError: for anything the user can mend, in words.
    """
    keep_compiled()
    parallel = parallel_of(config)
    method = make_method(parallel)
    init = _initialiser(config, parallel, method)
    needed = config.log.keep_checkpoints + 1
    needed *= checkpoint.state_bytes(jax.eval_shape(init))
    # Frozen weights are in no checkpoint: the run's record says which they were, and a
    # resume with others is refused like any other setting that differs.
    frozen = [] if task.frozen is None else [task.frozen()]
    record = config.to_dict()
    if frozen:
        record["frozen"] = checkpoint.digest(frozen[0])
    place = workdir.open_workdir(
        folder, record, border.parse_resume(config.resume), MAY_DIFFER, needed
    )

    def with_frozen(state: PyTree) -> PyTree:
        shared, local = state  # taken out of the list: the state alone holds them
        return (dataclasses.replace(shared, frozen=frozen.pop()), local)

    def without_frozen(state: PyTree) -> PyTree:
        return (dataclasses.replace(state[0], frozen=None), state[1])

    restore = _restorer(config, parallel, make_method)
    put_back = with_frozen if frozen else lambda state: state
    agent, scenes = method.agent, config.eval
    evaluation = playground.make_evaluation(
        task, agent, scenes.seed, max(scenes.scenes, scenes.final_scenes)
    )
    step = parallel.compile(method.program)

    def iterate(state: PyTree) -> tuple[PyTree, Metrics]:
        shared, local, told = step(*state)
        return (shared, local), told

    def params(state: PyTree) -> PyTree:
        return agent.params(state[0])

    program = loop.Program(
        init=lambda: put_back(init(task.start and task.start())),
        iterate=iterate,
        evaluate=lambda state, final, pause: evaluation.policy(
            params(state), scenes.final_scenes if final else scenes.scenes, pause
        ),
        # Takes parameters and does not heed them.
        evaluate_random=lambda state, pause: evaluation.random(
            params(state), scenes.final_scenes, pause
        ),
        check=lambda state, row: _check_stuck(task, parallel.num_devices, state, row),
        dump=_dump,
        restore=lambda read, meta: put_back(restore(read, meta)),
        kept=without_frozen,
        devices=parallel.num_devices,
    )
    try:
        playground.save_tokenizer(task, place.path / "hf")
        result = loop.train(program, _schedule(config, method), place)
        if result.after is not None:
            shown = episodes.play(
                task, agent, params(result.state), scenes.episodes_shown
            )
            _conclude(place.path, result, result.after, shown)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise files.RunError(
            f"{error} ({files.free_space(place.path)} of disk free). The same command "
            f"goes on from the newest checkpoint in {place.path}"
        ) from error


def keep_compiled() -> None:
    """Keeps compiled programs on disk, unless told where: resumes start at once."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = pathlib.Path.home() / ".cache" / "rljax-xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _initialiser(config, parallel, method) -> Callable[..., PyTree]:
    """(trunk or None) -> the whole state before the first step."""

    def init(trunk=None):
        agent_key, local_key = jax.random.split(jax.random.key(config.seed))
        local = parallel.spread(lambda index: method.init_local(local_key, index))
        return method.agent.init(agent_key, trunk=trunk), local

    return jax.jit(init)


def _restorer(config, parallel, make_method):
    """Reads a checkpoint saved with any number of devices."""

    def restore(read, meta):
        saved = meta["devices"]
        layout = devices.layout_of(saved)
        if saved == parallel.num_devices:
            layout = parallel
        init = _initialiser(config, layout, make_method(layout))
        shared, local = read(jax.eval_shape(init))
        if saved != parallel.num_devices:
            method = make_method(parallel)
            local = method.redistribute(local, saved, parallel.num_devices)
        return shared, local

    return restore


def _schedule(config: Any, method: Method) -> loop.Schedule:
    calls = -(-config.total_env_steps // method.steps_per_call)
    every = max(1, round(config.eval.every_env_steps / method.steps_per_call))
    saves = max(1, config.log.checkpoint_every_updates // method.updates_per_call)
    return loop.Schedule(
        calls=calls,
        total_steps=calls * method.steps_per_call,
        eval_every=every,
        save_every=saves,
        keep=config.log.keep_checkpoints,
        nonfinite_limit=NONFINITE_LIMIT,
    )


def _dump(state: PyTree, path: pathlib.Path) -> None:
    """Writes the last batch whose update was skipped to `path`.npz."""
    whole = path.with_name(f"{path.name}.npz")
    files.write_arrays(whole, jax.device_get(state[1].bad_batch))


def _check_stuck(task, num_devices: int, state: PyTree, row: metrics.Row) -> None:
    """Names a state that left the policy nothing to do."""
    if not row["rollout/stuck"]:
        return
    local = jax.device_get(devices.stacked(state[1], num_devices))
    where = int(np.argmax(local.stuck > 0))
    obs = jax.tree.map(lambda x: x[where], local.stuck_obs)
    raise files.RunError(
        f"{int(row['rollout/stuck'])} states admitted no command; the first was\n"
        f"{task.env.describe(obs)}\n"
        "The world or the command filter must leave one in every state."
    )


def _conclude(
    folder: pathlib.Path, result: loop.Result, last: metrics.Row, shown
) -> None:
    """Final table, summary and report."""
    assert result.random is not None and result.before is not None
    random, before, after = (
        playground.flat({k: v for k, v in row.items() if k.startswith("eval/")})
        for row in (result.random, result.before, last)
    )
    position = result.position
    print(metrics.final_table(random, before, after))
    metrics.write_summary(
        folder / "summary.json", random, before, after,
        position.train_seconds, position.axis, position.updates,
    )  # fmt: skip
    report.write_episodes(folder, shown)
    print(f"report: {report.build(folder)}")
