"""What a family of models says of its `config.json` files.

A field is *read*, or must have the one value we implement, or says nothing about the
function computed (dropout, special tokens, the library's own notes). Anything else is
an error that names it, so that no model is ever run approximately.
"""

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


class Fields:
    """The fields of a file; asking for one that is missing says so."""

    def __init__(self, values: Mapping[str, Any]):
        """Keeps them."""
        self._values = values

    def get(self, name: str, default: Any = None) -> Any:
        """A field that may be missing or null."""
        value = self._values.get(name)
        return default if value is None else value

    def need(self, name: str) -> Any:
        """A field that must be there.

        Raises:
          ValueError: naming it.
        """
        if self._values.get(name) is None:
            found = "null for" if name in self._values else "no"
            raise ValueError(f"config.json has {found} {name}")
        return self._values[name]


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
