"""Does V tell a wrong step from a right one better than the policy's log-ratio does?

    python -m experiments.ranking --workdir=runs/oreo --data=runs/log/log.jsonl.gz

The log holds answers to arithmetic problems, where the first wrong line of an answer is
known. For each line up to it, and for all lines of right answers, it compares what the
line changes in V with beta times its log-ratio to the reference: the area under the ROC
curve for right lines against first wrong ones, with 95 % intervals over problems, and
how often the lowest line of a wrong answer is its first wrong one. No line is told the
reward: the last one ends before the end token. The log should be of problems that the
run has not learnt from, as `experiments.collect` with `--config.split=test` makes one.

Not looked at are right answers with a wrong line, wrong answers without one, such as
those cut short, and the line in which an answer was cut short; the table counts the
answers. Writes `ranking.json` into the workdir, or `--json=FILE`. Ends with 0, or with
2 where it could not be made.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import border, credit, run
from rljax.agents.offline import Reading
from rljax.envs.reasoning import arithmetic
from rljax.training import ranking
from rljax.training.files import RunError, write_json
from rljax.training.ranking import FIRST_WRONG, LATER, RIGHT, Estimate, Steps
from rljax.types import GOOD, Episode

_TASK = "arithmetic/"
_LEFT_OUT = ("right with a wrong line", "wrong without a wrong line")


class Marked(NamedTuple):
    """An answer whose first wrong line is known, or is known to have none."""

    episode: Episode
    lines: list[str]  # whole ones
    error: int  # the first wrong line, -1 where all are right


def main(words: Sequence[str]) -> int:
    """Prints and writes the comparison; 2 where something can be mended."""
    given = _parser().parse_args(words)
    run.keep_compiled()
    try:
        for name, least in (("problems", 0), ("resamples", 1), ("seed", 0)):
            if getattr(given, name) < least:
                raise ValueError(
                    f"--{name}={getattr(given, name)}: it must be at least {least}"
                )
        _rank(given)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def mark(
    log: Sequence[Episode], tokenizer: Any, eos_ids: Sequence[int]
) -> tuple[list[Marked], dict[str, int]]:
    """Finds the first wrong line of each answer.

    Args:
      log: answers to arithmetic problems; a step of theirs is a line.
      tokenizer: of the policy.
      eos_ids: tokens that end an answer; the last line of others is not whole.

    Returns:
      The answers that can be used, and why others cannot: reason -> how many.

    Raises:
      ValueError: if an answer is to another problem, or its steps are not lines.
    """
    found, left = [], dict.fromkeys(_LEFT_OUT, 0)
    for one in log:
        if not one.task.startswith(_TASK):
            raise ValueError(
                f"line {one.line} of the log answers {one.task!r}; wrong lines are "
                f"known of problems named {_TASK}EXPRESSION alone"
            )
        lines = _lines(one, tokenizer)
        if one.ids[-1] not in eos_ids:
            lines = lines[:-1]
        error = arithmetic.first_error(one.task.removeprefix(_TASK), lines)
        right = one.reward > GOOD
        if right == (error < 0):
            found.append(Marked(one, lines, error))
        else:
            left[_LEFT_OUT[0] if right else _LEFT_OUT[1]] += 1
    return found, left


def steps_of(marked: Sequence[Marked], readings: Sequence[Reading]) -> Steps:
    """Numbers of all whole lines of all answers.

    Args:
      marked: the answers.
      readings: of each, leaves [L] with V among them.
    """
    _, problem = np.unique([one.episode.task for one in marked], return_inverse=True)
    parts = []
    for place, (one, reading) in enumerate(zip(marked, readings, strict=True)):
        episode, count = one.episode, len(one.lines)
        actions = int(episode.action.sum())
        ratio = reading.log_prob - reading.reference_log_prob
        told = ranking.of_answer(
            episode.step[episode.action],
            np.asarray(reading.value)[:actions],
            np.asarray(ratio)[:actions],
        )
        kind = np.full(count, RIGHT if one.error < 0 else LATER)
        if one.error >= 0:
            kind[: one.error], kind[one.error] = RIGHT, FIRST_WRONG
        final = np.array([line.startswith("####") for line in one.lines], bool)
        same = np.full(count, problem[place]), np.full(count, place)
        parts.append(Steps(*same, kind, final, *(x[:count] for x in told)))
    return Steps(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def report(steps: Steps, beta: float, resamples: int, seed: int) -> dict[str, Any]:
    """All that is compared, ready for JSON.

    Args:
      steps: of all answers.
      beta: of the run.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Raises:
      ValueError: if there are no right lines, or no first wrong ones.
    """
    inside = np.isin(steps.answer, steps.answer[steps.kind == FIRST_WRONG])
    groups = {
        "all lines": np.ones(len(steps.kind), bool),
        "of wrong answers": inside,
        "but final lines": ~steps.final,
        "final lines": steps.final,
    }
    found = [
        ranking.separate(name, Steps(*(x[group] for x in steps)), beta, resamples, seed)
        for name, group in groups.items()
    ]
    if found[0].difference is None:
        raise ValueError(
            f"the log has {found[0].right:,} right lines and {found[0].wrong:,} first "
            "wrong ones; there must be some of both"
        )
    return {
        "separation": [_plain(one) for one in found],
        "location": _plain(ranking.locate(steps, resamples, seed)),
        "means": ranking.means(steps, beta),
    }


def table(found: dict[str, Any]) -> list[str]:
    """The comparison as lines.

    Args:
      found: of `report`.
    """
    scores = ("explicit", "implicit", "difference", "value")
    heads = ("change in V", "log-ratio", "difference", "V after")
    wide = "".join(f"{head:>25}" for head in heads)
    told = [f"{'area under the curve':<20}   right  wrong{wide}"]
    for row in found["separation"]:
        numbers = "".join(f"{_shown(row[name]):>25}" for name in scores)
        told.append(f"{row['name']:<20}{row['right']:>8}{row['wrong']:>7}{numbers}")
    at = found["location"]
    numbers = "".join(f"{_shown(at[name]):>25}" for name in scores[:3])
    told.append(f"{'lowest is first wrong':<21}{'':>7}{at['answers']:>7}{numbers}")
    if at["chance"] is not None:
        told.append(f"  a line drawn at random: {at['chance']:.3f}")
    told += ["", f"{'mean of a line':<20}  change in V  log-ratio  V before  V after"]
    for name, row in found["means"].items():
        told.append(
            f"{name:<20}{row['explicit']:>+13.4f}{row['implicit']:>+11.4f}"
            f"{row['before']:>10.3f}{row['after']:>9.3f}"
        )
    return told


def _parser() -> argparse.ArgumentParser:
    parser = border.parser(__doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="DIR of a run of oreo")
    add("--data", required=True, help="a log: JSON lines, plain, .gz or .xz")
    add("--json", help="FILE; ranking.json in the workdir unless given")
    add("--problems", type=int, default=0, help="of the log, the first; 0: all")
    add("--resamples", type=int, default=1_000, help="of the bootstrap")
    add("--seed", type=int, default=0, help="of the bootstrap")
    return parser


def _rank(given: argparse.Namespace) -> None:
    found = credit.open_run(given.workdir)
    if "beta" not in found.config or "critic" not in found.config:
        raise RunError(f"{given.workdir} has no V: give the workdir of a run of oreo")
    tokens = found.start.tokenizer
    log = credit.load(found, given.data)
    if given.problems:
        names = set(list(dict.fromkeys(one.task for one in log))[: given.problems])
        log = [one for one in log if one.task in names]
    marked, left = mark(log, tokens, found.start.eos_ids)
    if not marked:
        raise RunError(f"{given.data}: no answer of {len(log):,} can be used: {left}")
    beta = float(found.config.beta)
    readings = credit.read(found, [one.episode for one in marked])
    steps = steps_of(marked, readings)
    told = report(steps, beta, given.resamples, given.seed)
    right = sum(one.error < 0 for one in marked)
    count = {"right": right, "wrong": len(marked) - right, "left out": left}
    problems = len(np.unique(steps.problem))
    print(
        f"{found.name}: {found.method}, beta {beta:g}, after update {found.update:,}\n"
        f"{right:,} right and {len(marked) - right:,} wrong answers to {problems:,} "
        f"problems; left out: "
        + ", ".join(f"{number:,} {reason}" for reason, number in left.items())
        + "\n"
    )
    print("\n".join(table(told)))
    path = pathlib.Path(given.json or pathlib.Path(given.workdir, "ranking.json"))
    path = path.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"beta": beta, "update": found.update, "problems": problems}
    write_json(path, {**vars(given), **about, "answers": count, **told})
    print(path)


def _lines(one: Episode, tokenizer: Any) -> list[str]:
    """The text of each step, without space at its ends; none where nothing is said."""
    texts = [
        tokenizer.decode(
            one.ids[one.step == number].tolist(),
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        ).strip()
        for number in np.unique(one.step[one.action])
    ]
    whole = "\n".join(texts)
    if any("\n" in text for text in texts) or _shown_lines(one, tokenizer) != whole:
        raise ValueError(
            f"line {one.line} of the log has steps of more than a line, or of less: "
            "leave `step` and `steps` out of it, and rank a run whose data.delimiters "
            "are the ends of lines"
        )
    return texts if any(texts) else []


def _shown_lines(one: Episode, tokenizer: Any) -> str:
    """The lines of an answer that show something, without space at their ends."""
    whole = tokenizer.decode(
        one.ids[one.action].tolist(),
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    lines = [line.strip() for line in whole.split("\n")]
    return "\n".join(line for line in lines if line)


def _plain(found: Any) -> Any:
    """Named tuples as dicts."""
    if hasattr(found, "_asdict"):
        return {key: _plain(value) for key, value in found._asdict().items()}
    return found


def _shown(number: dict[str, float] | None) -> str:
    if number is None:
        return "-"
    one = Estimate(**number)
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
