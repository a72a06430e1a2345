"""Greedy texts of every family, token for token what transformers generates."""

import jax
import numpy as np
import pytest

from rljax.policy import decode
from rljax.policy.desk import Settings
from tests.models import golden


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
