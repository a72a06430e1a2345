"""What an encoder-decoder of the T5 family is made of."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rljax.models.config import check_dtypes


def gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU by its tanh approximation, x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.

    Args:
      x: any shape.

    Returns:
      Like `x`.
    """
    return jax.nn.gelu(x, approximate=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncDecConfig:
    """Settings of an encoder-decoder.

    Raises:
      ValueError: a setting, or a pair of them, is impossible; it names both the
        value and the limit.
    """

    vocab_size: int  # V, tokens of the tokenizer
    width: int  # D, size of the residual streams
    num_layers: int  # of the encoder
    num_decoder_layers: int
    num_heads: int
    head_dim: int  # heads need not share out the width
    mlp_width: int  # inner size of the MLP
    gated: bool = True  # two matrices into the MLP, one of them its gate
    activation: Callable[[jax.Array], jax.Array] = gelu_tanh
    num_buckets: int = 32  # of distances that attention tells apart
    max_distance: int = 128  # from here on all distances are one
    norm_eps: float = 1e-6  # added to the mean square in RMSNorm
    tied_embedding: bool = False  # logits from the embedding's own transpose
    scale_logits: bool = False  # times width^-1/2, as the first T5 does
    start_id: int = 0  # token that every decoded text begins with
    scan_layers: bool = True  # one compiled layer for all, or one copy each
    remat: bool = False  # recompute a layer in its backward pass: less memory
    param_dtype: str = "float32"  # weights as stored
    dtype: str = "float32"  # activations and matmuls; norms, softmax are float32

    def __post_init__(self) -> None:
        for field in (
            *("vocab_size", "width", "num_layers", "num_decoder_layers", "num_heads"),
            *("head_dim", "mlp_width", "norm_eps"),
        ):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be > 0")
        if self.num_buckets < 4 or self.num_buckets % 4:
            raise ValueError(
                f"num_buckets is {self.num_buckets}; it must be a multiple of 4: the "
                "encoder halves it for either direction, and half of each is exact"
            )
        if self.max_distance <= self.num_buckets // 2:
            raise ValueError(
                f"max_distance is {self.max_distance}; it must be above half of "
                f"num_buckets, {self.num_buckets // 2}"
            )
        if not 0 <= self.start_id < self.vocab_size:
            raise ValueError(
                f"start_id is {self.start_id}; there are {self.vocab_size} tokens"
            )
        check_dtypes(self.param_dtype, self.dtype)

    @property
    def activation_dtype(self) -> jnp.dtype:
        """`dtype` as a type."""
        return jnp.dtype(self.dtype)


def tiny(vocab_size: int) -> EncDecConfig:
    """About 0.2 M parameters, shaped like Flan-T5: for a small text world on CPU."""
    return EncDecConfig(
        vocab_size=vocab_size,
        width=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        head_dim=32,
        mlp_width=168,
        scan_layers=False,
    )
