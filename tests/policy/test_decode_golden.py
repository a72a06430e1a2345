"""Greedy texts of every family, token for token what transformers generates."""

import jax
import numpy as np
import pytest

from rljax.policy import decode
from rljax.policy.desk import Settings
from tests.models import golden, golden_t5


@pytest.mark.parametrize("name", golden.names())
def test_greedy_is_transformers_greedy(name):
    said, c = golden.said(name), golden.config(name)
    prompts = [
        row[:length] for row, length in zip(said["ids"], said["length"], strict=True)
    ]
    longest = said["greedy"].shape[1]
    settings = Settings(
        slots=2, prompts=(max(map(len, prompts)),), longest=longest, prefill=2, free=1
    )
    found = decode.make(c, settings).generate(
        golden.params(golden.ROOT / name, c), prompts,
        jax.random.split(jax.random.key(0), len(prompts)), temperature=0.0,
    )  # fmt: skip
    for row, greedy in enumerate(said["greedy"]):
        np.testing.assert_array_equal(found.ids[row][found.sampled[row]], greedy)


@pytest.mark.parametrize("kind", golden_t5.KINDS)
def test_greedy_of_an_encoder_decoder_is_transformers_greedy(kind):
    c, params = golden_t5.read(kind)
    with np.load(golden_t5.FOLDER / kind / "golden.npz") as file:
        said = {name: file[name] for name in file.files}
    prompts = [row[real] for row, real in zip(said["ids"], said["mask"], strict=True)]
    assert len({len(prompt) for prompt in prompts}) == 3
    longest = said["greedy"].shape[1]
    assert longest > c.max_distance + 1
    settings = Settings(slots=2, prompts=(15, 22), longest=longest, prefill=2, free=1)
    found = decode.make(c, settings).generate(
        params, prompts, jax.random.split(jax.random.key(0), 3), temperature=0.0
    )
    for row, greedy in enumerate(said["greedy"]):
        assert len(set(greedy.tolist())) > 1
        np.testing.assert_array_equal(found.ids[row][found.sampled[row]], greedy)
