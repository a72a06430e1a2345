"""What a decoder is made of, and the sizes that have names."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How RoPE's wavelengths are stretched for a longer context.

    By `factor` altogether, or, where the others are given, as Llama 3.1 does: long
    wavelengths by `factor`, short ones not at all, those between in part
    (`layers.rope_frequencies` has the formula).
    """

    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_positions: int | None = None  # context of the first training

    def __post_init__(self) -> None:
        rest = (self.low_freq_factor, self.high_freq_factor, self.original_positions)
        if any(x is None for x in rest) and any(x is not None for x in rest):
            raise ValueError(
                "low_freq_factor, high_freq_factor and original_positions belong "
                f"together; got {rest}"
            )
        for value in (self.factor, *rest):
            if value is not None and value <= 0:
                raise ValueError(f"{self} holds {value}; all must be > 0")


def check_dtypes(param_dtype: str, dtype: str) -> None:
    """Raises a ValueError for a type that models are not made of."""
    for field, name in (("param_dtype", param_dtype), ("dtype", dtype)):
        if name not in ("float32", "bfloat16", "float16", "float64"):
            raise ValueError(
                f"{field} is {name!r}; it must be float32, bfloat16, float16 or float64"
            )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Settings of a causal decoder.

    Raises:
      ValueError: a setting, or a pair of them, is impossible; it names both the
        value and the limit.
    """

    vocab_size: int  # V, tokens of the tokenizer
    width: int  # D, size of the residual stream
    num_layers: int
    num_heads: int  # query heads
    num_kv_heads: int  # key and value heads; each serves num_heads / num_kv_heads
    head_dim: int  # even where RoPE turns pairs
    mlp_width: int  # inner size of the MLP
    rope_theta: float = 10_000.0  # base of the RoPE wavelengths
    rope_scaling: RopeScaling | None = None
    max_positions: int | None = None  # the context the model was made for
    window: int | None = None  # positions back, itself included, that a layer sees
    window_layers: tuple[int, ...] = ()  # the layers that `window` is for
    local_rope_theta: float | None = None  # of the layers with a window, unscaled
    learned_positions: bool = False  # a vector each, as in GPT-2, in place of RoPE
    layer_norm: bool = False  # LayerNorm with its bias, as in GPT-2, for RMSNorm
    norm_eps: float = 1e-6  # added to the mean square (variance) in a norm
    norm_offset: float = 0.0  # added to the scale of every norm; 1 in Gemma
    post_norms: bool = False  # attention and MLP normalise what they add, as in Gemma
    gate: Callable[[jax.Array], jax.Array] = jax.nn.silu  # of the MLP
    gated_mlp: bool = True  # gate(x W_gate) * x W_up; False is gate(x W_up)
    embedding_scale: float = 1.0  # times the embedding, where the stream begins
    query_scale: float | None = None  # of queries; None is head_dim^-1/2
    attention_softcap: float | None = None  # c tanh(x / c) over attention's scores
    logit_softcap: float | None = None  # the same over logits
    tied_embedding: bool = False  # logits from the embedding's own transpose
    qkv_bias: bool = False  # as in Qwen2
    output_biases: bool = False  # of all other projections, as in GPT-2
    qk_norm: bool = False  # RMSNorm of each query and key head, as in Qwen3
    scan_layers: bool = True  # one compiled layer for all, or one copy each
    remat: bool = False  # recompute a layer in its backward pass: less memory
    param_dtype: str = "float32"  # weights as stored
    dtype: str = "float32"  # activations and matmuls; norms, softmax are float32

    def __post_init__(self) -> None:
        for field in (
            *("vocab_size", "width", "num_layers", "num_heads", "num_kv_heads"),
            *("head_dim", "mlp_width", "rope_theta", "norm_eps"),
        ):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be > 0")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads is {self.num_heads}; it must be a multiple of "
                f"num_kv_heads, {self.num_kv_heads}"
            )
        if self.learned_positions and self.max_positions is None:
            raise ValueError("learned_positions needs max_positions, which is None")
        if bool(self.window_layers) != (self.window is not None):
            raise ValueError(
                f"window is {self.window} and window_layers {self.window_layers}: give "
                "both or neither"
            )
        if self.window is not None and self.window <= 0:
            raise ValueError(f"window is {self.window}; it must be > 0")
        wrong = [i for i in self.window_layers if not 0 <= i < self.num_layers]
        if wrong:
            raise ValueError(
                f"window_layers holds {wrong[0]}; there are {self.num_layers} layers"
            )
        if self.head_dim % 2 and not self.learned_positions:
            raise ValueError(f"head_dim is {self.head_dim}; RoPE needs an even one")
        check_dtypes(self.param_dtype, self.dtype)

    @property
    def activation_dtype(self) -> jnp.dtype:
        """`dtype` as a type."""
        return jnp.dtype(self.dtype)


def tiny(vocab_size: int) -> ModelConfig:
    """About 0.1 M parameters: learns a small text world on two CPU cores."""
    return ModelConfig(
        vocab_size=vocab_size,
        width=64,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        head_dim=32,
        mlp_width=168,  # 8/3 of the width: a SwiGLU as large as an MLP of 4 widths
        scan_layers=False,  # with two layers a scan saves nothing and costs 8 %
    )


def small(vocab_size: int) -> ModelConfig:
    """About 3 M parameters and a word-level vocabulary's embedding."""
    return ModelConfig(
        vocab_size=vocab_size,
        width=256,
        num_layers=4,
        num_heads=4,
        num_kv_heads=4,
        head_dim=64,
        mlp_width=704,
    )


def base(vocab_size: int) -> ModelConfig:
    """About 90 M parameters and the embedding, for an accelerator."""
    return ModelConfig(
        vocab_size=vocab_size,
        width=768,
        num_layers=12,
        num_heads=12,
        num_kv_heads=4,
        head_dim=64,
        mlp_width=2048,
        tied_embedding=True,
        remat=True,
        dtype="bfloat16",
    )
