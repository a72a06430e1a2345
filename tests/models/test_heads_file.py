"""Heads written and read again, and files that are not theirs."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rljax.models import heads_file
from rljax.models.heads import Head

NOTES = heads_file.Notes(width=6, eos_id=1, read_q="last_node", q_output="logit")


def head(widths: tuple[int, ...], seed: int):
    params = jax.jit(Head(widths).init)(jax.random.key(seed), jnp.zeros((1, 6)))
    # Biases are zero at first.
    return jax.tree.map(lambda x: x + 0.5, params["params"])


@pytest.fixture
def heads():
    return {"v": head((), 0), "q1": head((5, 4), 1), "q2": head((5, 4), 2)}


def test_heads_come_back(heads, tmp_path):
    heads_file.save(tmp_path, heads, NOTES)
    found, notes = heads_file.load(tmp_path)
    assert notes == NOTES
    jax.tree.map(np.testing.assert_array_equal, found, heads)
    hidden = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    for name, widths in {"v": (), "q1": (5, 4)}.items():
        one, other = (
            Head(widths).apply({"params": h[name]}, hidden) for h in (heads, found)
        )
        np.testing.assert_array_equal(one, other)
    # The format's own library reads them, too.
    file = load_file(tmp_path / heads_file.WEIGHTS)
    assert file["q2.Dense_1.kernel"].shape == (5, 4)
    np.testing.assert_array_equal(file["v.Dense_0.bias"], heads["v"]["Dense_0"]["bias"])
    told = json.loads((tmp_path / heads_file.NOTES).read_text())
    assert told["heads"]["q1"]["widths"] == [5, 4]
    assert "a command's last token" in told["heads"]["q1"]["fed"]
    fed = told["heads"]["v"]["fed"]
    assert "in a decoder: of the prompt's last token" in fed
    assert "in an encoder-decoder: of the decoder's start token" in fed


def test_what_is_no_head_is_refused(heads, tmp_path):
    with pytest.raises(
        ValueError, match=r"named v, q or q1 and so on; got \['value'\]"
    ):
        heads_file.save(tmp_path, {"value": heads["v"]}, NOTES)
    with pytest.raises(ValueError, match="named v, q"):
        heads_file.save(tmp_path, {}, NOTES)
    with pytest.raises(ValueError, match="head v is no MLP from 7 features"):
        heads_file.save(tmp_path, heads, NOTES._replace(width=7))
    broken = jax.tree.map(lambda x: x * np.nan, heads["v"])
    with pytest.raises(
        ValueError, match="head v: Dense_0.kernel holds values that are"
    ):
        heads_file.save(tmp_path, {"v": broken}, NOTES)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"read_q": "first"}, "read_q of the heads is 'first'; it must be path or"),
        ({"q_output": "tanh"}, "q_output of the heads is 'tanh'"),
        ({"eos_id": None}, "eos_id of the heads is None"),
    ]
    for change, message in changes:
        with pytest.raises(ValueError, match=message):
            heads_file.save(tmp_path, heads, NOTES._replace(**change))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("v.Dense_0.bias"), "\n  v.Dense_0.bias is missing"),
        (lambda t: t.update(x=np.zeros(2)), r"\n  x \(2,\) is of no head"),
        (
            lambda t: t.update({"v.Dense_0.bias": np.zeros(2)}),
            r"v.Dense_0.bias has shape \(2,\), expected \(1,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_listed(change, message, heads, tmp_path):
    heads_file.save(tmp_path, heads, NOTES)
    held = load_file(tmp_path / heads_file.WEIGHTS)
    change(held)
    save_file(held, tmp_path / heads_file.WEIGHTS)
    with pytest.raises(ValueError, match=f"is not as heads.json says:(.|\n)*{message}"):
        heads_file.load(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", "does not describe heads"),
        ("{", "does not describe heads"),
        ('{"format": 2}', "is of format 2, expected 1"),
        ('{"format": 1}', "does not describe heads: KeyError"),
    ],
)
def test_damaged_notes_are_told(text, message, heads, tmp_path):
    with pytest.raises(
        ValueError, match="holds no heads: there is no heads/heads.safetensors"
    ):
        heads_file.load(tmp_path)
    heads_file.save(tmp_path, heads, NOTES)
    (tmp_path / heads_file.NOTES).write_text(text)
    with pytest.raises(ValueError, match=message):
        heads_file.load(tmp_path)


def test_nothing_beside_the_config_looks_like_weights_of_the_model(heads, tmp_path):
    heads_file.save(tmp_path, heads, NOTES)
    assert not list(tmp_path.glob("*.safetensors"))  # vLLM would read it


def test_heads_of_earlier_exports_are_found_beside_the_model(heads, tmp_path):
    heads_file.save(tmp_path, heads, NOTES)
    (tmp_path / heads_file.WEIGHTS).rename(tmp_path / "heads.safetensors")
    found, notes = heads_file.load(tmp_path)
    assert notes == NOTES and found.keys() == heads.keys()
    (tmp_path / "heads.safetensors").unlink()
    with pytest.raises(ValueError, match="there is no heads/heads.safetensors"):
        heads_file.load(tmp_path)
