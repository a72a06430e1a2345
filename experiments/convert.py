"""Writes a model as a Hugging Face folder, with its heads and a model card.

    python -m experiments.convert --model=PATH --out=DIR [--dtype=bfloat16]

PATH is a Hugging Face folder, a GGUF or llama2.c file, `smollm2`, or the workdir of a
run (`--update=N` takes another checkpoint than the newest; of a run on problems or logs
the policy alone is written, an adapter merged: its critic is in hf/ once it has ended).
transformers and vLLM open what is written; `heads.json` says how to read the Q or V
head, which they have no place for. An adapter of other runs is merged, and lies in
`adapter/` besides, for PEFT.
"""

import dataclasses
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import config_dict

from experiments import border, language_model, starts
from rljax.models import (
    heads_file,
    hf_folder,
    loading,
    lora,
    model_card,
    peft_folder,
)
from rljax.models.config import ModelConfig
from rljax.models.lora import LoraConfig
from rljax.text import tokenizer as tokenizers
from rljax.training import checkpoint
from rljax.training.files import RunError, read_json
from rljax.types import Params

GENERATION = "generation_config.json"
CRITIC = "critic"  # folder of the critic's own trunk, where it has one
ADAPTER = "adapter"  # PEFT folder of the policy's adapter, where it learnt one


class Source(NamedTuple):
    """What is written."""

    config: ModelConfig
    params: Params
    tokenizer: Any
    values: Mapping[str, Any] | None  # the parsed config.json of a loaded model
    eos_ids: tuple[int, ...]
    heads: Mapping[str, Params]  # by name; none where empty
    notes: heads_file.Notes | None
    critic: Params | None  # the critic's own trunk
    card: str
    generation: Mapping[str, Any]  # the parsed generation_config.json; empty if none
    adapter: tuple[Params, LoraConfig] | None = None  # merged into `params`
    base_name: str = ""  # of the model it is for
    adapter_folder: pathlib.Path | None = None  # of an export, kept as it is


def main(words: list[str]) -> int:
    """Converts; 2 where something can be mended, told in words."""
    parser = border.parser(__doc__)
    parser.add_argument("--model", required=True, help="PATH")
    parser.add_argument("--out", required=True, help="DIR, new or an earlier export")
    parser.add_argument("--dtype", choices=hf_folder.TYPES, help="of the weights")
    parser.add_argument("--update", type=int, help="of a workdir's checkpoint")
    given = parser.parse_args(words)
    try:
        convert(given.model, given.out, given.dtype, given.update)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def convert(
    model: str, out: str, dtype: str | None = None, update: int | None = None
) -> None:
    """Reads a model and writes it.

    Args:
      model: what `loading.open_model` opens, or a workdir.
      out: the folder to write.
      dtype: of the weights; as they are where None.
      update: of the checkpoint, in a workdir; the newest where None.

    Raises:
      ValueError: for anything that cannot be read or written as asked, in words.
      OSError: if the disk will not take it.
    """
    source = read(model, update)

    def more(part: pathlib.Path) -> None:
        if source.notes is not None and source.heads:
            heads_file.save(part, source.heads, source.notes)
        if source.critic is not None:
            _write(part / CRITIC, source, source.critic, dtype, [])
        if source.adapter is not None:
            adapter, how = source.adapter
            name = source.base_name
            peft_folder.save(part / ADAPTER, adapter, how, source.config, name)
        if source.adapter_folder is not None:
            shutil.copytree(source.adapter_folder, part / ADAPTER)
        (part / "README.md").write_text(source.card, encoding="utf-8")

    _write(pathlib.Path(out), source, source.params, dtype, [more])
    heads = f", heads {', '.join(source.heads)}" if source.heads else ""
    count = sum(x.size for x in source.params.values())
    print(f"{out}: {count:,} parameters{heads}")


def _write(folder, source: Source, params: Params, dtype, extras) -> None:
    hf_folder.save(
        folder, params, source.config, source.tokenizer, source.values,
        generation=source.generation, eos_ids=source.eos_ids, dtype=dtype,
        extras=extras,
    )  # fmt: skip


def read(model: str, update: int | None = None) -> Source:
    """A model and all that goes with it.

    Args:
      model: what `loading.open_model` opens, or a workdir.
      update: of the checkpoint, in a workdir.

    Raises:
      ValueError: if there is none, or it cannot be read.
    """
    path = pathlib.Path(model).expanduser()
    values = _json(path / "config.json")
    if {"config", "versions"} <= values.keys():
        return _of_workdir(path, values, update)
    if update is not None:
        raise RunError(
            f"--update={update}: {path} is no workdir, it has no checkpoints"
        )
    return _of_model(model, values)


def _json(path: pathlib.Path) -> dict[str, Any]:
    """A file of a workdir or a Hugging Face folder; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        values = read_json(path)
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise RunError(f"{path} holds no settings")
    return values


def _of_model(where: str, values: dict[str, Any]) -> Source:
    """Any model that can be opened, with the heads beside it where it is an export."""
    model, path = loading.open_model(where), pathlib.Path(where).expanduser()
    dtype = model.stored
    notes, heads, critic = None, {}, None
    if (path / heads_file.NOTES).is_file():
        heads, notes = heads_file.load(path)
        if notes.trunk == CRITIC:
            trunk = loading.open_model(path / CRITIC)
            critic = loading.load_params(trunk, _on_the_host, dtype)
    if (path / "README.md").is_file():
        card = (path / "README.md").read_text(encoding="utf-8")
    else:
        card = model_card.text(
            model_card.Facts(
                model.origin, base_model=model.origin, method="none: converted only"
            )
        )
    ours = (path / hf_folder.RECORD).is_file()
    learnt = path / ADAPTER if ours and (path / ADAPTER).is_dir() else None
    return Source(
        dataclasses.replace(model.config, param_dtype=dtype),
        loading.load_params(model, _on_the_host, dtype), model.tokenizer(),
        values or None, model.eos_ids, heads, notes, critic, card,
        _json(path / GENERATION), adapter_folder=learnt,
    )  # fmt: skip


def _on_the_host(name: str, array: np.ndarray) -> Any:
    """Nothing is computed here, so nothing goes to a device."""
    return array


def _of_workdir(
    path: pathlib.Path, record: dict[str, Any], update: int | None
) -> Source:
    """The policy of a run, its heads, and what is known of how it was made."""
    folder = path / "checkpoints"
    if update is None:
        update = checkpoint.latest(folder)
    elif update not in checkpoint.updates(folder):
        there = ", ".join(map(str, checkpoint.updates(folder))) or "none"
        raise RunError(f"--update={update}: {folder} has {there}")
    else:
        checkpoint.verify(folder, update)
    if update is None:
        raise RunError(f"{path} has no checkpoint yet")
    if "env" not in record["config"]:
        return _of_texts(path, record, update)
    tokens = tokenizers.load(path / "hf")
    run, params = record["config"], checkpoint.read_params(folder, update)
    model = language_model.of_run(run, tokens)
    base = pathlib.Path(run["model"].get("path") or "-").expanduser()
    whole = _whole(run, model)
    critic = params.get("critic")
    notes = heads_file.Notes(
        width=model.config.width,
        eos_id=tokens.eos_token_id,
        read_q=run["model"]["read_q"],
        q_output="logit"
        if run.get("critic_error") == "sigmoid_cross_entropy"
        else "value",
        trunk="." if critic is None else CRITIC,
    )
    heads = {name: params[name] for name in ("q", "v") if name in params}
    return Source(
        model.config, whole(params["actor"]), tokens,
        _json(base / "config.json") or None, model.eos_ids, heads, notes,
        None if critic is None else whole(critic),
        model_card.text(_facts(path, record, update)), _json(base / GENERATION),
        None if model.adapter is None else (params["actor"], model.adapter),
        run["model"].get("path", ""),
    )  # fmt: skip


def _of_texts(path: pathlib.Path, record: dict[str, Any], update: int) -> Source:
    """The policy alone of a run on texts, such as OREO's or PPO's."""
    run = config_dict.ConfigDict(record["config"])
    start = starts.choose_start(run)
    params = checkpoint.read_params(path / "checkpoints", update)
    frozen = None if start.adapter is None else start.weights()
    _require_frozen(record["config"], frozen)
    whole = start.texts.join(frozen, params["actor"])
    facts = model_card.Facts(
        name=path.resolve().name,
        base_model=run.model.path or start.origin,
        method=f"update {update} of a run",
        command=record.get("command", ""),
        seeds=(run.seed,),
        data=f"what the run was told to learn from, up to update {update}",
        task=run.task.name,
        metrics={},
        versions=record["versions"],
    )
    return Source(
        start.config, lora.fold(whole, start.config), start.tokenizer, None,
        start.eos_ids, {}, None, None, model_card.text(facts), {},
    )  # fmt: skip


def _whole(
    run: dict[str, Any], model: language_model.LanguageModel
) -> Callable[[Params], Params]:
    """What turns a run's trunk into all weights of its model."""
    if model.adapter is None or model.weights is None:
        return lambda trunk: trunk
    config, adapter, base = model.config, model.adapter, model.weights()
    _require_frozen(run, base)
    return lambda trunk: lora.merge(base, trunk, config, adapter)


def _require_frozen(run: dict[str, Any], base: Params | None) -> None:
    """Raises RunError unless these are the weights that the run learnt beside."""
    there = None if base is None else checkpoint.digest(base)
    if there is not None and there != run["frozen"]:
        raise RunError(
            f"the run learnt beside weights with {run['frozen']}, and "
            f"{run['model']['path']} now has {there}: give that model back its files"
        )


def _facts(path: pathlib.Path, record: dict[str, Any], update: int) -> model_card.Facts:
    """What a workdir tells of its run."""
    run = record["config"]
    env, model = run["env"], run["model"]
    summary = {}
    if (path / "summary.json").is_file():
        summary = read_json(path / "summary.json")
    done = summary.get("updates") == update
    steps = f"{summary['env_steps']:,}" if done else f"{update:,} updates' worth of"
    kinds = "single goals and sequences" if env["sequences"] else "single goals"
    warm = run["warm_start"]["updates"]
    return model_card.Facts(
        name=path.resolve().name,
        base_model=model.get("path")
        or f"none: a {model['size']} decoder of rljax from random weights"
        + (f", after {warm:,} updates on text from random play" if warm else ""),
        method="SAC-GLAM" if "critic_error" in run else "PPO-GLAM",
        command=record.get("command", ""),
        seeds=(run["seed"],),
        data=f"{steps} environment steps of Playground-Text (world {env['world']}, "
        f"{env['num_objects']} objects, {kinds}), played by the policy itself",
        task="Playground-Text: share of episodes that succeed, by kind of goal",
        metrics=summary if done else {},
        versions=record["versions"],
        notes="## Settings\n\n```json\n" + json.dumps(run, indent=2) + "\n```",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
