"""What V is worth over seeds: tables of `experiments.search` and `experiments.ranking`.

    python -m experiments.value_tables runs/search/oreo_step-seed*/search.json
    python -m experiments.value_tables runs/ranking/oreo_step-seed*.json

All files are of one of the two, each of a run with a seed of its own, and were asked
alike. Prints means over the files with 95 % intervals by Student's t over them; of a
search the share of right answers and what it differs by from greedy, paired; of a
ranking the areas under the ROC curve, V after a line among them, and change in V less
log-ratio. What one of the files lacks is left out.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import border
from experiments.offline_tables import estimate
from rljax.training.files import RunError, read_json

# What has to be the same in all files, or they are not of one study.
_SEARCHED = ("beams", "temperature", "reading", "rounds", "delimiters", "eval", "task")
_RANKED = ("data", "problems")
_AREAS = {
    "value": "V after the line",
    "explicit": "change in V",
    "implicit": "log-ratio",
    "difference": "change less log-ratio",
}


def search_table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: ways to search, and what each gains over greedy.

    Args:
      records: of `experiments.search`.
    """
    _check_alike([record["config"] for record in records], _SEARCHED)
    rows = [["search", "right", "less greedy", "tokens", "MFLOPs"]]
    every = [record["methods"] for record in records]
    for name in every[0]:
        if not all(name in methods for methods in every):
            continue
        found = [methods[name] for methods in every]
        right = [one["accuracy"] for one in found]
        gains = [
            one["accuracy"] - methods["greedy"]["accuracy"]
            for one, methods in zip(found, every, strict=True)
        ]
        tokens, flops = (
            float(np.mean([one[key] for one in found]))
            for key in ("generated", "flops")
        )
        gained = "" if name == "greedy" else estimate(gains).text(sign=True)
        rows.append(
            [
                name,
                estimate(right).text(),
                gained,
                f"{tokens:,.0f}",
                f"{flops / 1e6:,.0f}",
            ]
        )
    return _markdown(rows)


def ranking_table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: groups of lines, and how well each measure parts them.

    Args:
      records: of `experiments.ranking`.
    """
    _check_alike(records, _RANKED)
    rows = [["lines", "right, first wrong", *_AREAS.values()]]
    for group in records[0]["separation"]:
        found = [_group(record, group["name"]) for record in records]
        if not all(one.get("value") for one in found):  # of final lines none is wrong
            continue
        counts = f"{group['right']:,}, {group['wrong']:,}"
        areas = [
            estimate([one[key]["value"] for one in found]).text(key == "difference")
            for key in _AREAS
        ]
        rows.append([group["name"], counts, *areas])
    return _markdown(rows)


def _group(record: dict[str, Any], name: str) -> dict[str, Any]:
    return next((one for one in record["separation"] if one["name"] == name), {})


def _check_alike(found: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    for name in names:
        values = {str(one.get(name)) for one in found}
        if len(values) > 1:
            raise RunError(f"files differ in {name}: {', '.join(sorted(values))}")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *others]) + "\n"


def main() -> int:
    """Prints the table of the files; 2 where they make none."""
    parser = border.parser(__doc__)
    parser.add_argument("files", nargs="+", type=pathlib.Path, help="JSONs")
    given = parser.parse_args()
    try:
        records = [_read(path) for path in given.files]
        kinds = {"methods" in record for record in records}
        if len(kinds) > 1:
            raise RunError("some files are of searches and some of rankings")
        print((search_table if kinds.pop() else ranking_table)(records), end="")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _read(path: pathlib.Path) -> dict[str, Any]:
    """A file, and where it is of a search, `config.json` beside it."""
    try:
        found = read_json(path)
        if isinstance(found, dict) and "methods" in found and "config" not in found:
            found |= {"config": read_json(path.with_name("config.json"))["config"]}
    except (ValueError, KeyError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not found.keys() & {"methods", "separation"}:
        raise RunError(f"{path} is of no search and of no ranking")
    return found


if __name__ == "__main__":
    sys.exit(main())
