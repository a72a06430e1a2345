"""Builds the golden fixtures anew and compares them with the committed ones.

    python -m tests.parity.compare

Every `build*.py` beside this file is run with a folder of its own to write to. Texts,
settings and greedy tokens must be equal, weights and logits nearly so: another
version of torch may round otherwise.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

from tests.models.golden import ROOT

HERE = pathlib.Path(__file__).parent
WEIGHTS, LOGITS = 1e-6, 5e-5
ONLY_NOTES = {"transformers_version"}


def arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """What a fixture's file holds."""
    if path.suffix == ".safetensors":
        return load_file(path)
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def off(old: pathlib.Path, new: pathlib.Path) -> float:
    """Most that an array moved.

    Raises:
      AssertionError: for other names or shapes, or integers that differ.
    """
    there, here = arrays(old), arrays(new)
    assert there.keys() == here.keys(), f"{old}: {sorted(there.keys() ^ here.keys())}"
    most = 0.0
    for name, array in there.items():
        other = here[name]
        assert (array.shape, array.dtype) == (other.shape, other.dtype), (old, name)
        if array.dtype.kind in "biu":
            np.testing.assert_array_equal(other, array, err_msg=f"{old}: {name}")
        elif array.size:
            most = max(most, float(np.abs(array - other).max()))
    return most


def compare(old: pathlib.Path, new: pathlib.Path) -> None:
    """One fixture.

    Raises:
      AssertionError: if it is not what is built now.
    """
    names = {p.name for p in old.iterdir()}
    assert names == {p.name for p in new.iterdir()}, f"{old}: other files"
    said = []
    for name in sorted(names):
        if name.endswith(".json"):
            there, here = (json.loads((p / name).read_text()) for p in (old, new))
            changed = {k for k in there | here if there.get(k) != here.get(k)}
            assert changed <= ONLY_NOTES, f"{old / name}: {sorted(changed)} changed"
        else:
            limit = WEIGHTS if name.endswith(".safetensors") else LOGITS
            moved = off(old / name, new / name)
            assert moved <= limit, f"{old / name}: off by {moved:.1e}"
            said.append(f"{name} off by {moved:.1e}")
    print(f"{old.name}: {', '.join(said)}")


def main() -> None:
    """Builds all and compares all."""
    with tempfile.TemporaryDirectory() as place:
        built = pathlib.Path(place)
        for script in sorted(HERE.glob("build*.py")):
            words = [sys.executable, "-m", f"tests.parity.{script.stem}", str(built)]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        names = {p.name for p in ROOT.iterdir()}
        assert names == {p.name for p in built.iterdir()}, "other fixtures are built"
        for name in sorted(names):
            compare(ROOT / name, built / name)


if __name__ == "__main__":
    main()
