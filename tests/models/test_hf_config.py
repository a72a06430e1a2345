"""Settings written as `config.json`: read again, they are the same settings."""

import dataclasses

import jax
import pytest

from rljax.models import config as model_config
from rljax.models import families, hf_config
from tests.models import golden


@pytest.mark.parametrize("name", golden.names())
def test_every_family_comes_back(name):
    c = golden.config(name)
    values = hf_config.values_of(c)
    assert families.config_of(values) == c
    assert values["model_type"] == name.removesuffix("_linear").replace(
        "gemma3", "gemma3_text"
    )


@pytest.mark.parametrize("make", ["tiny", "small", "base"])
def test_our_own_sizes_are_llamas(make):
    c = getattr(model_config, make)(60)
    values = hf_config.values_of(c)
    assert values["model_type"] == "llama" and values["head_dim"] == c.head_dim
    assert hf_config.differences(values, c) == []


@pytest.mark.parametrize(
    "change, family, field",
    [
        ({"qkv_bias": True, "qk_norm": True}, "qwen2", "qk_norm: True in the model"),
        ({"query_scale": 0.5}, "llama", "query_scale: 0.5 in the model, None in"),
        ({"logit_softcap": 3.0}, "llama", "logit_softcap: 3.0"),
        ({"window": 4, "window_layers": (1,)}, "mistral", r"window_layers: \(1,\)"),
        ({"gate": jax.nn.relu}, "llama", "gate: "),
        ({"post_norms": True}, "gemma2", "norm_offset: 0.0 in the model, 1.0 in"),
    ],
)
def test_what_no_family_has_is_told(change, family, field):
    c = dataclasses.replace(model_config.small(60), **change)
    with pytest.raises(
        ValueError, match=f"the nearest, {family}, .*\n(.*\n)*.*{field}"
    ):
        hf_config.values_of(c)


def test_how_a_model_is_run_is_no_difference():
    c = golden.config("llama")
    values = hf_config.values_of(c)
    run = dataclasses.replace(c, scan_layers=False, remat=True, dtype="bfloat16")
    assert hf_config.differences(values, run) == []
    assert hf_config.differences(values, dataclasses.replace(c, norm_eps=1e-3)) == [
        "norm_eps: 0.001 in the model, 1e-06 in config.json"
    ]
