"""What generation asks of a model: its prompts read once, then a token at a time.

`cache` has it for decoders, `cache_encdec` for encoder-decoders; here the two bear the
same names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from rljax.models import cache, cache_encdec
from rljax.models.config import ModelConfig
from rljax.models.encdec_config import EncDecConfig
from rljax.types import Params


class Stepwise(NamedTuple):
    """The functions of a model. Shapes: B rows, S columns, P prompt tokens, D width.

    Attributes:
      arrange: params -> weights, laid out for a token at a time.
      prefill: (weights, ids int32 [B, P], length int32 [B]) -> a cache of prompts.
      empty: (B, S, P) -> a cache of zeros for prompts of up to P tokens.
      resize: (cache, S') -> the same with another number of columns.
      step: (weights, cache, ids int32 [B], positions int32 [B]) -> hidden states
        [B, D], and the cache with these tokens.
      logits: (weights, hidden [B, D]) -> [B, V].
      start_id: token that every text begins with, at position 0; None where a text
        goes on from its prompt, whose tokens are columns of the cache.
    """

    arrange: Callable[[Params], Any]
    prefill: Callable[[Any, jax.Array, jax.Array], Any]
    empty: Callable[[int, int, int], Any]
    resize: Callable[[Any, int], Any]
    step: Callable[[Any, Any, jax.Array, jax.Array], tuple[jax.Array, Any]]
    logits: Callable[[Any, jax.Array], jax.Array]
    start_id: int | None


def of(config: ModelConfig | EncDecConfig) -> Stepwise:
    """The functions of a model of these settings."""
    if isinstance(config, EncDecConfig):
        return _of_encdec(config)
    return Stepwise(
        arrange=lambda params: cache.arrange(params, config),
        prefill=lambda weights, ids, length: cache.prefill(weights, ids, config),
        empty=lambda rows, columns, prompt: cache.empty(rows, columns, config),
        resize=cache.resize,
        step=lambda weights, held, ids, at: cache.step(weights, held, ids, at, config),
        logits=lambda weights, hidden: cache.logits(weights, hidden, config),
        start_id=None,
    )


def _of_encdec(config: EncDecConfig) -> Stepwise:
    c = config
    return Stepwise(
        arrange=lambda params: cache_encdec.arrange(params, c),
        prefill=lambda weights, ids, length: cache_encdec.prefill(
            weights, ids, length, c
        ),
        empty=lambda rows, columns, prompt: cache_encdec.empty(
            rows, columns, prompt, c
        ),
        resize=cache_encdec.resize,
        step=lambda weights, held, ids, at: cache_encdec.step(
            weights, held, ids, at, c
        ),
        logits=lambda weights, hidden: cache_encdec.logits(weights, hidden, c),
        start_id=c.start_id,
    )
