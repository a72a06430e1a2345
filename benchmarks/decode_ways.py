"""What each part of generation gives: the same work without it, in turns.

`python -m benchmarks.decode --parts`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from rljax.models import cache, decoder
from rljax.models.config import ModelConfig
from rljax.models.layers import Turned
from rljax.policy import slots, truncate
from rljax.types import Params

SMALLER = ModelConfig(  # 5.2 M parameters
    vocab_size=1024,
    width=256,
    num_layers=6,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    mlp_width=768,
)
LARGER = ModelConfig(  # 19 M
    vocab_size=4096,
    width=512,
    num_layers=5,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    mlp_width=1280,
)
ROWS, BEHIND, TURNS = 32, 64, 32
