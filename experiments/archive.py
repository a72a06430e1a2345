"""The archive of a run with retrospective replay, in people's hands.

    python -m experiments.archive --workdir=runs/rrl --page=archive.html
    python -m experiments.archive --workdir=runs/rrl --out=archive.jsonl
    ...                                    # lines of it are annotated
    python -m experiments.archive --workdir=runs/rrl --annotations=archive.jsonl

The archive is that of the newest checkpoint, whether the run goes on or has ended.
`--page` shows the states of a problem as a tree, with what came of each; `--out` writes
them as lines, texts beside ids. To a line one adds `"annotate": "promote"`, `"forbid"`
or `"clear"`, or `"new_score": 0.7`; a line without `cell` adds a state. What it says is
checked, and put where the run takes it up before its next step, or when it goes on.
Ends with 0, or with 2 where something can be mended, told in words.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict

from experiments import border, online, rrl, run
from experiments.configs import rrl as configs
from rljax.data import archive_file
from rljax.replay.cells import Archive
from rljax.training import (
    annotations,
    archive_page,
    archive_tree,
    checkpoint,
    online_parts,
)
from rljax.training.annotations import Offer
from rljax.training.files import RunError, read_json, write_text
from rljax.training.online_parts import Host, Parts


class Run(NamedTuple):
    """A run with replay as it stands in its newest checkpoint."""

    path: pathlib.Path
    update: int
    config: Any
    method: str
    parts: Parts
    host: Host
    archive: Archive  # of the host

    @property
    def step(self) -> int:
        """How many steps it has taken."""
        return int(self.host.counts[0])


def main(words: Sequence[str]) -> int:
    """Does what is asked for; 2 where something can be mended, told in words."""
    given = _parser().parse_args(words)
    run.keep_compiled()
    try:
        if not (given.page or given.out or given.annotations):
            raise RunError("nothing to do: give --page, --out or --annotations")
        if given.problems < 1:
            raise RunError(f"--problems={given.problems}: it must be at least 1")
        found = open_run(given.workdir)
        print(f"{found.path}: the archive after step {found.step:,}")
        if given.annotations:
            _annotate(found, given.annotations)
        if given.out:
            _export(found, given.out)
        if given.page:
            _show(found, given.page, given.problems)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def open_run(workdir: str) -> Run:
    """Reads what a run with replay carries beside its weights.

    Args:
      workdir: its folder.

    Raises:
      RunError: if it is none, or has no checkpoint.
      ConfigError: if its model or its problems are not there any more.
    """
    path = pathlib.Path(workdir).expanduser()
    try:
        values = dict(read_json(path / "config.json")["config"])
        values["replay"], values["rollout"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is not the workdir of a run with replay: experiments.rrl alone "
            "keeps an archive"
        ) from error
    folder = path / "checkpoints"
    update = checkpoint.latest(folder)
    if update is None:
        raise RunError(f"{path} has no checkpoint yet")
    for digest in ("frozen", "begun"):  # of weights, which are not needed here
        values.pop(digest, None)
    config = config_dict.ConfigDict(completed(values, configs.get_config().to_dict()))
    method = rrl.method_of(config)
    parts, room = online.prepare(config, method)
    like = online_parts.begin(parts, room)
    host = checkpoint.read_rest(folder, update, like)
    assert host.memory is not None
    return Run(path, update, config, method.name, parts, host, host.memory.archive)


def completed(values: Any, defaults: Mapping[str, Any], key: str = "") -> Any:
    """Settings of a run, and the defaults of those that its version did not have yet.

    A default is what runs did before there was the setting.

    Args:
      values: of the run, or of a group of its settings.
      defaults: all that there are by now.
      key: of the group.

    Raises:
      RunError: if a group is none.
    """
    if not isinstance(values, Mapping):
        raise RunError(f"config{key} is {values!r}: it must be a group of settings")
    found = dict(values)
    for name, default in defaults.items():
        if isinstance(default, Mapping):
            group = found.get(name, {})
            found[name] = completed(group, default, f"{key}.{name}")
        else:
            found.setdefault(name, default)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = border.parser(__doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="DIR of a run of experiments.rrl")
    add("--out", help="FILE.jsonl to write all states to, .gz or .xz if so called")
    add("--annotations", help="FILE.jsonl of annotated lines, for the run to take up")
    add("--page", help="FILE.html to write: the states of problems, and their fate")
    add("--problems", type=int, default=30, help="most problems of the page")
    return parser


def _export(found: Run, out: str) -> None:
    path = pathlib.Path(out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    context = online_parts.context_of(found.parts)
    count = archive_file.export(path, found.archive, context, found.step)
    print(f"{path}: {count:,} states")


def _annotate(found: Run, source: str) -> None:
    offer: Offer = annotations.offer(
        found.path, source, found.archive, int(found.host.taken),
        online_parts.context_of(found.parts), found.step,
    )  # fmt: skip
    print(f"{offer.path}: {annotations.in_words(offer.done)}")
    if found.step >= found.config.rollout.steps or _spent(found):
        print(
            "the run has ended: this is taken up only if it goes on from an earlier "
            "checkpoint, --config.resume=N"
        )
    else:
        print("the run takes it up before its next step, or when it goes on")


def _spent(found: Run) -> bool:
    most = found.config.rollout.tokens
    return bool(most) and int(found.host.counts[2]) >= most


def _show(found: Run, out: str, problems: int) -> None:
    path = pathlib.Path(out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    name = found.path.resolve().name
    facts = archive_page.Facts(
        f"What replay did in {name}",
        f"{found.method}, after step {found.step:,} of {found.config.rollout.steps:,}, "
        f"{int(found.host.counts[2]):,} tokens sampled.",
    )
    told = archive_tree.problems_of(found.parts, found.host)
    write_text(path, archive_page.page(facts, told, problems))
    print(path)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # a run may have the accelerator
    sys.exit(main(sys.argv[1:]))
