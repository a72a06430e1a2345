"""Promotion gate: is policy b better than policy a, by as much as is asked for?

    python -m experiments.compare --a=runs/sft --b=runs/oreo --panel=test \
        --margin=0.02 --out=runs/oreo_against_sft.json

Both answer the same problems, or play the same scenes, with the same seeds, and are
compared problem by problem. `--a` and `--b` are workdirs of runs that learnt reasoning
or Playground-Text, or models (a Hugging Face folder, a .gguf file, smollm2); one must
be a workdir, which names the task. A workdir's policy is hf/ of a reasoning run, the
newest checkpoint of the others.

`--panel` is train, dev or test, or a file in the form of the task's; on Playground-Text
train or test. Regressions come first. Each interval is a 95 % interval of its own line:
of many kinds a few lie outside by chance. A negative margin asks that b be worse by at
most so much.

Ends with 0 if the interval of the difference over all problems begins above the margin,
with 1 if it does not, with 2 where the comparison could not be made.
"""

import argparse
import math
import pathlib
import sys
import traceback
from collections.abc import Sequence

import numpy as np

from experiments import border, panels, run
from rljax.training import paired
from rljax.training.files import write_json
from rljax.training.paired import Paired

_FEW = 8  # problems that a terminal names


def main(words: Sequence[str]) -> int:
    """Prints; 0 for better by the margin, 1 for not, 2 where nothing is known."""
    given = _parser().parse_args(words)
    run.keep_compiled()
    try:
        return _compare(given)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
    except Exception:  # 1 would say that b was found no better
        traceback.print_exc()
    return 2


def passes(found: Paired, margin: float) -> bool:
    """Whether b is better by more than the margin, as far as can be told.

    Args:
      found: over all problems.
      margin: in [-1, 1).
    """
    return found.low > margin


def table(kinds: Sequence[Paired], whole: Paired) -> list[str]:
    """The comparison as lines, regressions first and the whole last.

    Args:
      kinds: of `paired.by_kind`.
      whole: over all problems.
    """
    width = max(len(one.name) for one in [*kinds, whole])
    told = [
        f"{'kind':<{width}}  problems      a      b  lost  gained"
        "  b - a   95 % interval"
    ]
    for one in [*kinds, whole]:
        mark = "  worse" if one.high < 0 else "  better" if one.low > 0 else ""
        told.append(
            f"{one.name:<{width}}  {one.count:>8}  {one.first:.3f}  {one.second:.3f}"
            f"  {one.lost:>4}  {one.gained:>6}  {one.difference:+.3f}"
            f"  [{one.low:+.3f}, {one.high:+.3f}]{mark}"
        )
    return told


def _parser() -> argparse.ArgumentParser:
    parser = border.parser(__doc__)
    add = parser.add_argument
    add("--a", required=True, help="WORKDIR or MODEL: what there is")
    add("--b", required=True, help="WORKDIR or MODEL: what may take its place")
    add("--panel", required=True, help="train, dev, test or FILE")
    add("--margin", type=float, default=0.0, help="what b has to be better by")
    add("--problems", type=int, default=0, help="of the panel, or of a kind of goal")
    add("--temperature", type=float, default=0.0, help="0 is greedy")
    add("--seed", type=int, default=20_011, help="of scenes and of samples")
    add("--out", help="FILE.json")
    return parser


def _compare(given: argparse.Namespace) -> int:
    for name, holds, limit in (
        ("margin", -1 <= given.margin < 1, "at least -1 and below 1"),
        ("problems", given.problems >= 0, "at least 0"),
        ("seed", 0 <= given.seed < 2**31 - 1_000_000, "at least 0, and below 2.1e9"),
        (
            "temperature",
            given.temperature >= 0 and math.isfinite(given.temperature),
            "at least 0",
        ),
    ):
        if not holds:
            raise ValueError(f"--{name}={getattr(given, name)}: it must be {limit}")
    how = panels.How(given.panel, given.problems, given.temperature, given.seed)
    one, other = panels.both(
        panels.open_policy(given.a), panels.open_policy(given.b), how
    )
    whole = paired.compare("all", one.right, other.right)
    kinds = paired.by_kind(one.kinds, one.right, other.right)
    print(f"a: {given.a}\nb: {given.b}\npanel: {given.panel}, {whole.count} problems\n")
    print("\n".join(table(kinds, whole)))
    lost = [one.names[i] for i in np.flatnonzero(one.right & ~other.right)]
    if lost:
        more = f" and {len(lost) - _FEW} more" if len(lost) > _FEW else ""
        print(f"\nonly a gets right: {', '.join(lost[:_FEW])}{more}")
    good = passes(whole, given.margin)
    print(f"\n{_verdict(whole, given.margin, good)}")
    if given.out:
        _write(given, whole, kinds, one, other, good)
    return 0 if good else 1


def _verdict(whole: Paired, margin: float, good: bool) -> str:
    asked = f"by more than {margin:g}" if margin >= 0 else f"or worse by < {-margin:g}"
    word = "is better" if good else "is not shown to be better"
    return f"b {word} {asked}: the interval begins at {whole.low:+.4f}"


def _write(given, whole, kinds, one, other, good: bool) -> None:
    path = pathlib.Path(given.out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {
        **vars(given),
        "promoted": good,
        "all": whole._asdict(),
        "kinds": [kind._asdict() for kind in kinds],
        "problems_asked": [
            {"name": name, "kind": kind, "a": bool(a), "b": bool(b)}
            for name, kind, a, b in zip(
                one.names, one.kinds, one.right, other.right, strict=True
            )
        ],
    }
    write_json(path, told)
    print(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
