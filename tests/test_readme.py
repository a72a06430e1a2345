"""The README is true: its file map is complete, and its example runs."""

import pathlib
import re
import subprocess
from collections.abc import Iterable

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAPPED = ("rljax", "experiments", "benchmarks")  # every file of theirs is in the map


def section(title: str) -> str:
    """What stands under a heading, up to the next of the same level."""
    return re.split(r"^## ", README.split(f"\n## {title}\n")[1], flags=re.M)[0]


def block(text: str, language: str) -> str:
    """The first fenced block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    assert found is not None
    return found[1]


def names_in(tree: str) -> list[str]:
    """Paths of the files in a tree: two spaces a level, folders end with a slash."""
    folders: list[str] = []
    files = []
    for line in tree.splitlines():
        level, odd = divmod(len(line) - len(line.lstrip()), 2)
        assert not odd and level <= len(folders), line
        name = line.split()[0]
        folders = folders[:level]
        if name.endswith("/"):
            folders.append(name)
        else:
            files.append("".join([*folders, name]))
    return files


def tracked() -> list[str]:
    """Files under version control; all there are where git is not at hand."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "--", *MAPPED],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
        files = done.stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        files = []
    if not files:
        files = [
            path.relative_to(ROOT).as_posix()
            for folder in MAPPED
            for path in (ROOT / folder).rglob("*.py")
        ]
    # A file that was deleted and not yet committed is still listed.
    return [file for file in files if (ROOT / file).is_file()]


def missing(files: Iterable[str], named: Iterable[str]) -> set[str]:
    """Python files that are not named; an empty one needs no line."""
    return {
        file
        for file in files
        if file.endswith(".py") and (ROOT / file).read_text().strip()
    } - set(named)


def test_map_names_every_file_and_no_other():
    named = names_in(block(section("File map"), "text"))
    assert len(named) == len(set(named))
    assert [name for name in named if not (ROOT / name).is_file()] == []
    assert missing(tracked(), named) == set()


def test_sees_a_planted_gap():
    tree = "rljax/\n  text/\n    trie.py  tries\n  types.py  arrays\nMakefile"
    named = names_in(tree)
    assert named == ["rljax/text/trie.py", "rljax/types.py", "Makefile"]
    files = ["rljax/types.py", "rljax/text/prompt.py", "rljax/text/__init__.py"]
    assert missing(files, named) == {"rljax/text/prompt.py"}
    assert "rljax/types.py" in tracked()


def test_example_runs_and_prints_what_it_says(capsys):
    part = section("As a library")
    code = compile(block(part, "python"), str(ROOT / "README.md"), "exec")
    exec(code, {"__name__": "readme"})
    said = block(part, "text").splitlines()
    printed = capsys.readouterr().out.splitlines()
    assert printed[:-1] == said[:-1]
    # The loss may differ in its last digits between machines.
    (words, ours), (same_words, theirs) = (
        line.rsplit(" ", 1) for line in (printed[-1], said[-1])
    )
    assert words == same_words
    assert float(ours) == pytest.approx(float(theirs), abs=2e-3)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"make (\w+)", README))))
def test_make_knows_the_command(command):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{command}:", makefile, re.M)
