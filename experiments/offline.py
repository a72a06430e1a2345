"""What every method that learns from logs does around its update."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import border, drift, reasoning, run
from experiments.border import AT_LEAST_ONE, POSITIVE, SHARE, ConfigError, Limit
from rljax.agents import offline as agents
from rljax.agents.base import NONFINITE_LIMIT
from rljax.agents.offline import OfflineAgent, Optimizer
from rljax.data import episodes, packing
from rljax.data.logs import LogError
from rljax.envs.reasoning import arithmetic
from rljax.models import hf_folder, loading, model_card
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder
from rljax.models.lora import LoraConfig
from rljax.policy import texts as texts_lib
from rljax.policy.texts import Texts
from rljax.text import tokenizer as tokenizers
from rljax.training import checkpoint, files, loop, metrics, report, workdir
from rljax.training import drift as drift_lib
from rljax.types import Episode, Params, PyTree

OPTIMIZER_LIMITS = {
    "learning_rate": POSITIVE,
    "warmup": Limit(0, 1),
    "max_grad_norm": POSITIVE,
    "weight_decay": Limit(0),
    "b1": SHARE,
    "b2": SHARE,
    "epsilon": POSITIVE,
}
LIMITS = {
    "seed": Limit(0, 2**63 - 1),
    "num_devices": Limit(0),
    "model.width": AT_LEAST_ONE,
    "model.layers": AT_LEAST_ONE,
    "model.heads": AT_LEAST_ONE,
    "model.mlp_width": AT_LEAST_ONE,
    "lora.rank": Limit(0),
    "data.row_tokens": Limit(0),
    "data.batch_size": AT_LEAST_ONE,
    "data.epochs": AT_LEAST_ONE,
    "log.checkpoint_every_updates": AT_LEAST_ONE,
    "log.keep_checkpoints": AT_LEAST_ONE,
}


class Start(NamedTuple):
    """Where a run begins.

    Attributes:
      config: the decoder's.
      tokenizer: its tokenizer.
      eos_ids: tokens that end an answer.
      texts: the policy.
      adapter: what learns beside frozen weights, None where all weights do.
      weights: () -> the weights to start from, the same bits at each call.
      origin: in words.
    """

    config: ModelConfig
    tokenizer: Any
    eos_ids: tuple[int, ...]
    texts: Texts
    adapter: LoraConfig | None
    weights: Callable[[], Params]
    origin: str


class Method(NamedTuple):
    """How a method learns from a log.

    Attributes:
      items: (the log's episodes, seed) -> what a batch is made of.
      compose: see `packing.Plan`.
      agent: (start, updates of the run, axis name) -> the agent.
      name: in words.
    """

    items: Callable[[list[Episode], int], list[packing.Item]]
    agent: Callable[[Start, int, str | None], OfflineAgent]
    name: str
    compose: packing.Compose = packing.as_they_are


def single(log: list[Episode], seed: int) -> list[packing.Item]:
    """Every episode by itself."""
    del seed
    return [(episode,) for episode in log]


def choose_start(config: Any, task: reasoning.Task | None = None) -> Start:
    """The model that a config names, or one of random weights.

    Raises:
      ConfigError: for an impossible setting or a model that cannot be read.
    """
    border.limits(config, LIMITS)
    if config.model.path:
        return _from_files(config)
    border.require(
        not config.lora.rank, "lora.rank", config.lora.rank,
        "0 without model.path: adapters learn beside weights that know something",
    )  # fmt: skip
    border.require(
        config.task.name == "arithmetic", "model.path", config.model.path,
        "a model, but for arithmetic, whose characters are all that a new one can read",
    )  # fmt: skip
    tokens = tokenizers.character_level(arithmetic.alphabet())
    model = config.model
    border.require(
        model.width % (2 * model.heads) == 0, "model.width", model.width,
        f"a multiple of twice model.heads, {2 * model.heads}",
    )  # fmt: skip
    size = ModelConfig(
        vocab_size=len(tokens),
        width=model.width,
        num_layers=model.layers,
        num_heads=model.heads,
        num_kv_heads=model.heads,
        head_dim=model.width // model.heads,
        mlp_width=model.mlp_width,
    )
    size = _with_types(config, size)

    def drawn():
        one = jax.numpy.zeros((1, 1), jax.numpy.int32)
        init = jax.jit(Decoder(size).init)
        return init(jax.random.key(config.seed), one, one, one[None] == 0)["params"]

    texts = texts_lib.make(size)
    end = (tokens.eos_token_id,)
    return Start(size, tokens, end, texts, None, drawn, "random weights")


def _from_files(config: Any) -> Start:
    try:
        model = loading.open_model(config.model.path)
        tokens = model.tokenizer()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"config.model.path: {error}") from error
    border.require(
        isinstance(model.config, ModelConfig), "model.path", config.model.path,
        "a decoder: an encoder-decoder reads no packed texts",
    )  # fmt: skip
    size = _with_types(config, dataclasses.replace(model.config, scan_layers=True))
    adapter = None
    if config.lora.rank:
        try:
            adapter = LoraConfig(
                config.lora.rank, config.lora.alpha, tuple(config.lora.targets)
            )
        except ValueError as error:
            raise ConfigError(f"config.lora: {error}") from error
    return Start(
        size,
        tokens,
        model.eos_ids or (tokens.eos_token_id,),
        texts_lib.make(size, adapter),
        adapter,
        lambda: loading.load_params(model, dtype=size.param_dtype),
        model.origin,
    )


def _with_types(config: Any, size: ModelConfig) -> ModelConfig:
    changes: dict[str, Any] = {"remat": config.model.remat}
    for key in ("dtype", "param_dtype"):
        name = config.model[key]
        border.require(
            name in ("", "float32", "bfloat16"), f"model.{key}", name,
            "float32, bfloat16 or empty",
        )  # fmt: skip
        if name:
            changes[key] = name
    return dataclasses.replace(size, **changes)


def optimizer_of(config: Any, prefix: str = "optimizer") -> Optimizer:
    """Settings of one network's optimiser."""
    return border.typed(config, Optimizer, OPTIMIZER_LIMITS, prefix)


def read_log(config: Any, start: Start, folder: pathlib.Path) -> list[Episode]:
    """The log of a config as episodes.

    Raises:
      ConfigError: if it cannot be read, or a line of it where that stops the run.
    """
    border.pick({"stop": 0, "skip": 0}, config.data.on_error, "data.on_error")
    border.require(bool(config.data.path), "data.path", config.data.path, "a log")
    try:
        log = episodes.load(
            config.data.path,
            start.tokenizer,
            on_error=config.data.on_error,
            rejects=folder / "rejects.jsonl",
            longest=config.data.row_tokens or None,
            end_id=start.eos_ids[0],
        )
    except (LogError, OSError, ValueError) as error:
        raise ConfigError(f"config.data.path: {error}") from error
    for line in episodes.told(log):
        print(line)
    return log.episodes


def train_on_log(config: Any, folder: str, method: Method) -> None:
    """`train` on the log that `data.path` names, from the model of `model.path`."""
    border.require(
        bool(config.model.path), "model.path", config.model.path,
        "the model that answered, such as hf/ of an sft workdir",
    )  # fmt: skip

    def log_of(start, task, place):
        del task
        return read_log(config, start, place)

    train(config, folder, method, log_of)


def train(
    config: Any,
    folder: str,
    method: Method,
    log_of: Callable[[Start, reasoning.Task, pathlib.Path], list[Episode]],
) -> None:
    """Runs a method to its end, or until a signal, and writes everything down.

    Args:
      config: as `experiments.configs.offline.shared` gives it, and the method's part.
      folder: the workdir.
      method: what learns.
      log_of: (start, task, workdir) -> the episodes.

    Raises:
      RunError: for anything the user can mend, in words.
    """
    run.keep_compiled()
    parallel = run.parallel_of(config)
    task, start = reasoning.make_task(config), choose_start(config)
    place = pathlib.Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    log = log_of(start, task, place)
    plan = _plan(config, method, log, parallel.num_devices)
    agent = method.agent(start, plan.updates, parallel.axis_name)
    frozen = start.weights()
    record = config.to_dict()
    record["frozen"] = checkpoint.digest(frozen)
    record["log"] = _digest(log)

    def init() -> agents.State:
        return jax.jit(agent.init)(jax.random.key(config.seed), frozen)

    shapes = jax.eval_shape(agent.init, jax.random.key(config.seed), frozen)
    thin = dataclasses.replace(shapes, frozen=None)
    needed = (config.log.keep_checkpoints + 1) * checkpoint.state_bytes(thin)
    opened = workdir.open_workdir(
        folder, record, border.parse_resume(config.resume),
        run.MAY_DIFFER, needed,
    )  # fmt: skip
    answerer = reasoning.make_answerer(
        start.config, start.tokenizer, task.verify, config.eval, start.eos_ids
    )
    asked = border.pick(task._asdict(), config.eval.split, "eval.split")
    asked = asked[: config.eval.problems or None]
    look = drift.make(config, start.texts, agent, log, start.config.vocab_size)
    update = parallel.compile(lambda state, batch: _as_program(agent, state, batch))

    def iterate(state: PyTree) -> tuple[PyTree, dict]:
        held, cursor = state
        items = packing.batch_of(plan, int(cursor[0]))
        held, _, told = update(held, packing.pack(plan, items))
        tokens = int(cursor[1]) + packing.num_tokens(items)
        told = told | {
            "updates": held.updates,
            "tokens": tokens,
            "train/epoch": (int(cursor[0]) + 1) / plan.updates_per_epoch,
            "train/skipped": held.skipped,
            "train/skipped_in_row": held.skipped_in_row,
        }
        return (held, np.array([cursor[0] + 1, tokens], np.int64)), told

    def evaluate(state: PyTree, final: bool, pause: loop.Pause) -> dict:
        del final
        share = reasoning.accuracy(answerer, agent.policy(state[0]), asked, pause)
        found = {f"eval/{config.eval.split}/{config.task.name}": share}
        return found | look(state[0])

    def restore(read: loop.Read, meta: dict) -> PyTree:
        del meta
        held, cursor = read((thin, np.zeros(2, np.int64)))
        kept = frozen if shapes.frozen is not None else None
        return dataclasses.replace(held, frozen=kept), np.asarray(cursor)

    program = loop.Program(
        init=lambda: (init(), np.zeros(2, np.int64)),
        iterate=iterate,
        evaluate=evaluate,
        evaluate_random=lambda state, pause: {},
        restore=restore,
        kept=lambda state: (dataclasses.replace(state[0], frozen=None), state[1]),
        devices=1,
        axis="tokens",
    )
    total = sum(
        packing.num_tokens(packing.batch_of(plan, n)) for n in range(plan.updates)
    )
    print(
        f"{method.name}: {len(plan.items):,} items of {len(log):,} episodes, "
        f"{plan.updates:,} updates, {total:,} tokens; rows of {plan.tokens} tokens, "
        f"{plan.rows} a device"
    )
    schedule = loop.Schedule(
        calls=plan.updates,
        total_steps=total,
        log_every=max(1, plan.updates // 500),
        eval_every=config.eval.every_updates,
        save_every=config.log.checkpoint_every_updates,
        keep=config.log.keep_checkpoints,
        nonfinite_limit=NONFINITE_LIMIT,
    )
    result = loop.train(program, schedule, opened)
    if result.after is not None:
        _conclude(config, opened.path, method, start, agent, result, plan)


def _as_program(agent: OfflineAgent, state, batch):
    """An update in the form that `devices` spreads: the batch is what is local."""
    state, told = agent.update(state, batch)
    return state, batch, told


def _plan(config, method: Method, log: list[Episode], num_devices: int) -> packing.Plan:
    data = config.data
    try:
        return packing.make_plan(
            method.items(log, config.seed), data.batch_size, data.epochs, config.seed,
            num_devices, data.row_tokens or None, method.compose,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from error


def _digest(log: Sequence[Episode]) -> str:
    """Of what is learnt from: a resume from another log is refused."""
    return checkpoint.digest(
        {
            "ids": np.concatenate([episode.ids for episode in log]),
            "action": np.concatenate([episode.action for episode in log]),
            "reward": np.array([episode.reward for episode in log], np.float32),
        }
    )


def _conclude(config, path, method, start: Start, agent, result, plan) -> None:
    """Final table, summary, report, and the policy as a Hugging Face folder."""
    before, after = (
        {k.rpartition("/")[2]: v for k, v in row.items() if k.startswith("eval/")}
        for row in (result.before, result.after)
    )
    position = result.position
    print(metrics.final_table({}, before, after))
    alarms = drift_lib.alarms(result.after, drift.limits_of(config))
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
    record = files.read_json(path / "config.json")

    def card(part: pathlib.Path) -> None:
        facts = model_card.Facts(
            name=path.resolve().name,
            base_model=config.model.path or start.origin,
            method=method.name,
            command=record.get("command", ""),
            seeds=(config.seed,),
            data=f"{config.data.path or 'solutions of the task'}, "
            f"{position.axis:,} tokens in {position.updates:,} updates",
            task=f"{config.task.name}: share of {config.eval.split} problems that "
            "greedy answers get right",
            metrics={"before": before, "after": after},
            versions=record["versions"],
            notes="## Settings\n\n```json\n"
            + json.dumps(record["config"], indent=2)
            + "\n```",
        )
        (part / "README.md").write_text(model_card.text(facts), encoding="utf-8")

    hf_folder.save(
        path / "hf", agent.policy(result.state[0]), start.config, start.tokenizer,
        eos_ids=start.eos_ids, extras=[card],
    )  # fmt: skip
    print(f"policy: {path / 'hf'}")
    print(f"report: {report.build(path)}")
