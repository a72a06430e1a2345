"""What a family of models says of its `config.json` files.

A field is *read*, or must have the one value we implement, or says nothing about the
function computed (dropout, special tokens, the library's own notes). Anything else is
an error that names it, so that no model is ever run approximately.
"""

import math
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from rljax.models.config import ModelConfig

# Of every family: says nothing about the function that is computed.
NOTES = frozenset(
    """
    _attn_implementation_autoset
    _name_or_path architectures attention_dropout auto_map bos_token_id
    cache_implementation chunk_size_feed_forward dtype eos_token_id id2label
    initializer_range
    is_llama_config label2id model_type output_attentions output_hidden_states
    pad_token_id
    problem_type return_dict task_specific_params tokenizer_class torch_dtype
    transformers.js_config transformers_version unk_token_id use_cache
    """.split()
)
# Of every family: RoPE turns halves; transformers turns them too, whatever is said.
FIXED: Mapping[str, Any] = MappingProxyType({"rope_interleaved": False})


class Family(NamedTuple):
    """How the files of a model type are read.

    Attributes:
      build: (fields that are there) -> settings.
      read: fields that `build` looks at.
      fixed: fields that must have this value where they are there.
      defaults: of fields that a file may leave out; not there means None.
    """

    build: Callable[["Fields"], ModelConfig]
    read: frozenset[str]
    fixed: Mapping[str, Any]
    defaults: Mapping[str, Any] = MappingProxyType({})


class Kind(NamedTuple):
    """What the value of a field can be."""

    what: str  # in words
    fits: Callable[[Any], bool]


_NAMES = {  # true is no number here, and 2.0 no whole one
    Kind("a whole number above 0", lambda x: type(x) is int and x > 0): """
        hidden_size num_attention_heads num_key_value_heads head_dim intermediate_size
        vocab_size num_hidden_layers max_position_embeddings sliding_window_pattern
        original_max_position_embeddings n_positions n_embd n_layer n_head n_inner
        d_model d_kv d_ff num_layers num_decoder_layers num_heads
        relative_attention_num_buckets relative_attention_max_distance
    """,
    Kind("a whole number, 0 or above", lambda x: type(x) is int and x >= 0): """
        sliding_window sliding_window_size max_window_layers decoder_start_token_id
        pad_token_id
    """,
    Kind(
        "a number above 0", lambda x: type(x) in (int, float) and 0 < x < math.inf
    ): """
        rms_norm_eps layer_norm_epsilon rope_theta rope_local_base_freq factor
        low_freq_factor high_freq_factor query_pre_attn_scalar attn_logit_softcapping
        final_logit_softcapping
    """,
    Kind("true or false", lambda x: type(x) is bool): """
        tie_word_embeddings use_sliding_window is_gated_act scale_decoder_outputs
    """,
    Kind("a text", lambda x: isinstance(x, str)): """
        rope_type type feed_forward_proj dense_act_fn
    """,
    Kind("an object of settings", lambda x: isinstance(x, Mapping)): """
        rope_scaling rope_parameters full_attention sliding_attention
    """,
    Kind(
        "a list of texts",
        lambda x: isinstance(x, list) and all(isinstance(y, str) for y in x),
    ): "layer_types",
}
KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}


def typed(name: str, value: Any, where: str = "config.json") -> Any:
    """A value that is what its field can be.

    Args:
      name: of the field, one of `KINDS`.
      value: found there.
      where: the file, in words.

    Raises:
      ValueError: for a value that is not; it names all three.
    """
    kind = KINDS[name]
    if not kind.fits(value):
        raise ValueError(f"{where} has {name} = {value!r}; it must be {kind.what}")
    return value


class Fields:
    """The fields of a file; one that is missing, or of another type, is named."""

    def __init__(self, values: Mapping[str, Any]):
        """Keeps them."""
        self._values = values

    def get(self, name: str, default: Any = None) -> Any:
        """A field that may be missing or null.

        Raises:
          ValueError: if it is not what it can be.
        """
        value = self._values.get(name)
        return default if value is None else typed(name, value)

    def need(self, name: str) -> Any:
        """A field that must be there.

        Raises:
          ValueError: if it is not, or is not what it can be.
        """
        if self._values.get(name) is None:
            found = "null for" if name in self._values else "no"
            raise ValueError(f"config.json has {found} {name}")
        return typed(name, self._values[name])


def check(
    values: Mapping[str, Any], read: Collection[str], fixed: Mapping[str, Any]
) -> None:
    """Refuses what a family does not implement.

    Args:
      values: the file, parsed.
      read: fields that are looked at elsewhere, beside `NOTES`.
      fixed: fields that must have this value where they are there, beside `FIXED`.

    Raises:
      ValueError: for another field, or another value; it names it.
    """
    name, fixed = values.get("model_type"), {**FIXED, **fixed}
    for field, value in values.items():
        if field in NOTES or field in read or value is None:
            continue
        if field not in fixed:
            raise ValueError(
                f"config.json of a {name} has {field} = {value!r}, which is not "
                "implemented"
            )
        if value != fixed[field]:
            raise ValueError(
                f"config.json of a {name} has {field} = {value!r}; only "
                f"{fixed[field]!r} is implemented"
            )
