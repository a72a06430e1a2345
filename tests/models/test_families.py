"""Settings read from config.json against the configuration classes of transformers."""

import functools

import jax
import pytest

from rljax.models import families, families_t5, family
from rljax.models.families import FAMILIES, config_of

LLAMA = {
    "vocab_size": 99,
    "hidden_size": 128,
    "intermediate_size": 56,
    "num_hidden_layers": 5,
    "num_attention_heads": 64,
    "num_key_value_heads": 2,
    "rms_norm_eps": 3e-5,
    "tie_word_embeddings": True,
    "max_position_embeddings": 128,
    "rope_theta": 700.0,
}
QWEN = {
    **LLAMA,
    "use_sliding_window": True,
    "sliding_window": 9,
    "max_window_layers": 3,
}
GEMMA = {
    **LLAMA,
    "tie_word_embeddings": False,
    "head_dim": 10,
    "query_pre_attn_scalar": 7,
    "sliding_window": 9,
    "attn_logit_softcapping": 3.0,
    "final_logit_softcapping": 2.0,
}
FILES = {
    "llama": {**LLAMA, "head_dim": 12},
    "mistral": {**LLAMA, "head_dim": 12, "sliding_window": 9},
    "qwen2": QWEN,
    "qwen3": {**QWEN, "head_dim": 12},
    "gemma2": GEMMA,
    "gemma3_text": {
        **GEMMA,
        "rope_local_base_freq": 50.0,
        "sliding_window_pattern": 3,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
}


@functools.cache
def transformers():
    from rljax.text.tokenizer import _transformers

    return _transformers()


def agree(kind: str, values: dict) -> None:
    """Ours and theirs say the same of a file."""
    ours = config_of({"model_type": kind, **values})
    theirs = transformers().AutoConfig.for_model(kind, **values)
    heads = theirs.num_attention_heads
    same = {
        "vocab_size": theirs.vocab_size,
        "width": theirs.hidden_size,
        "mlp_width": theirs.intermediate_size,
        "num_layers": theirs.num_hidden_layers,
        "num_heads": heads,
        "num_kv_heads": theirs.num_key_value_heads,
        "head_dim": getattr(theirs, "head_dim", None) or theirs.hidden_size // heads,
        "norm_eps": theirs.rms_norm_eps,
        "tied_embedding": theirs.tie_word_embeddings,
        "max_positions": theirs.max_position_embeddings,
        "attention_softcap": getattr(theirs, "attn_logit_softcapping", None),
        "logit_softcap": getattr(theirs, "final_logit_softcapping", None),
    }
    window = getattr(theirs, "sliding_window", None)
    every = ["sliding_attention"] * theirs.num_hidden_layers
    kinds = getattr(theirs, "layer_types", None) or (every if window else [])
    slide = tuple(i for i, k in enumerate(kinds) if k == "sliding_attention")
    same |= {"window_layers": slide, "window": window if slide else None}
    if kind.startswith("gemma"):
        same["query_scale"] = theirs.query_pre_attn_scalar**-0.5
    rope = theirs.rope_parameters
    if kind == "gemma3_text":
        same["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    same["rope_theta"] = rope["rope_theta"]
    found = {name: getattr(ours, name) for name in same}
    assert found == same
    if rope["rope_type"] == "default":
        assert ours.rope_scaling is None
    else:
        scaling = ours.rope_scaling
        assert scaling is not None and scaling.factor == rope["factor"]
        assert scaling.low_freq_factor == rope.get("low_freq_factor")
        assert scaling.high_freq_factor == rope.get("high_freq_factor")
        context = rope.get("original_max_position_embeddings")
        assert scaling.original_positions == context


def test_a_file_for_each_family():
    assert FILES.keys() <= FAMILIES.keys()


@pytest.mark.parametrize("kind", FILES)
def test_a_field_left_out_has_their_default(kind):
    agree(kind, FILES[kind])
    agree(kind, {})
    if kind.startswith("qwen"):  # with their 32 layers the last have a window
        agree(kind, {"use_sliding_window": True})
    for name in FILES[kind]:
        agree(kind, {k: v for k, v in FILES[kind].items() if k != name})


@pytest.mark.parametrize(
    "kind, name",
    [
        *[(kind, "num_key_value_heads") for kind in ("llama", "qwen2")],
        *[
            ("llama", "head_dim"),
            ("mistral", "head_dim"),
            ("mistral", "sliding_window"),
        ],
        *[("qwen2", "sliding_window"), ("qwen3", "rope_scaling")],
        *[("gemma2", "attn_logit_softcapping"), ("gemma2", "final_logit_softcapping")],
        *[("gemma3_text", "rope_scaling"), ("gemma3_text", "layer_types")],
    ],
)
def test_null_is_not_the_default(kind, name):
    agree(kind, {**FILES[kind], name: None})


LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5.0, "rope_scaling": None},
        {"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5.0,
                "original_max_position_embeddings": 64,
                **LLAMA3,
            }
        },
    ],
)
def test_old_and_new_spellings_of_rope(rope):
    rest = {k: v for k, v in LLAMA.items() if k != "rope_theta"}
    agree("llama", {**rest, **rope})


@pytest.mark.parametrize(
    "rope",
    [
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 6.0},
            }
        },
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}},
        {"rope_theta": 7.0, "rope_local_base_freq": 8.0},
    ],
)
def test_gemma3_has_two_bases(rope):
    agree("gemma3_text", {"layer_types": ["full_attention"] * 26, **rope})
    agree("gemma3_text", rope)


def test_what_makes_each_family_itself():
    made = {kind: config_of({"model_type": kind, **FILES[kind]}) for kind in FILES}
    assert {k for k, c in made.items() if c.qkv_bias} == {"qwen2"}
    assert {k for k, c in made.items() if c.qk_norm} == {"qwen3", "gemma3_text"}
    gemma = {k for k, c in made.items() if c.post_norms and c.norm_offset == 1.0}
    assert gemma == {"gemma2", "gemma3_text"}
    assert made["gemma2"].embedding_scale == 128**0.5
    assert made["gemma2"].gate is not jax.nn.silu and made["llama"].gate is jax.nn.silu


def test_real_files():
    # As SmolLM2-135M-Instruct and Qwen2.5-0.5B-Instruct have them.
    smollm = config_of(
        {
            "architectures": ["LlamaForCausalLM"], "attention_bias": False,
            "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
            "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041,
            "intermediate_size": 1536, "is_llama_config": True,
            "max_position_embeddings": 8192, "mlp_bias": False, "model_type": "llama",
            "num_attention_heads": 9, "num_hidden_layers": 30,
            "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1,
            "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None,
            "rope_theta": 100000, "tie_word_embeddings": True,
            "torch_dtype": "bfloat16", "transformers_version": "4.42.3",
            "transformers.js_config": {"dtype": "q4"}, "use_cache": True,
            "vocab_size": 49152,
        }
    )  # fmt: skip
    assert (smollm.head_dim, smollm.rope_theta, smollm.tied_embedding) == (
        64,
        1e5,
        True,
    )
    qwen = config_of(
        {
            "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu",
            "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
            "max_position_embeddings": 32768, "max_window_layers": 21,
            "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
            "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
            "sliding_window": 32768, "tie_word_embeddings": True,
            "torch_dtype": "bfloat16", "transformers_version": "4.43.1",
            "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
        }
    )  # fmt: skip
    assert qwen.window is None and qwen.qkv_bias and qwen.head_dim == 64
    # As `gpt2` has them, and what its larger and smaller sisters say besides.
    gpt2 = config_of(
        {
            "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1,
            "eos_token_id": 50256, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024,
            "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
            "resid_pdrop": 0.1, "summary_activation": None,
            "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
            "summary_type": "cls_index", "summary_use_proj": True,
            "task_specific_params": {"text-generation": {"do_sample": True}},
            "vocab_size": 50257,
            "n_special": 0, "predict_special_tokens": True, "output_past": True,
            "_num_labels": 1,
        }
    )  # fmt: skip
    assert (gpt2.width, gpt2.mlp_width, gpt2.max_positions) == (768, 3072, 1024)


@pytest.mark.parametrize(
    "kind, said",
    [
        ("qwen2", {"use_mrope": False, "attention_bias": False}),
        ("mistral", {"attention_bias": False}),
        ("gemma2", {"sliding_window_size": 9}),
        ("llama", {"_attn_implementation_autoset": True, "tokenizer_class": "X"}),
        ("llama", {"rope_interleaved": False}),
    ],
)
def test_what_says_nothing_of_the_function_changes_nothing(kind, said):
    plain = {"model_type": kind, **FILES[kind]}
    assert config_of({**plain, **said}) == config_of(plain)


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("bert", {}, "model_type 'bert' is not implemented; there are .*llama"),
        (None, {}, "model_type None is not implemented"),
        ("llama", {"rope_magic": 3}, "llama has rope_magic = 3, which is not impl"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config = .'bits"),
        ("llama", {"attention_bias": True}, "attention_bias = True; only False is"),
        ("llama", {"hidden_act": "relu"}, "hidden_act = 'relu'; only 'silu' is"),
        ("llama", {"hidden_size": None}, "has null for hidden_size"),
        ("qwen3", {"attention_bias": True}, "attention_bias = True; only False is"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "only False is impl"),
        ("gemma2", {"sliding_window": None}, "has null for sliding_window"),
        ("gemma2", {"sliding_window_pattern": 3}, "only 2 is implemented"),
        ("gemma2", {"sliding_window_size": 8}, "sliding_window_size = 8, .* is 9"),
        ("qwen2", {"use_mrope": True}, "use_mrope = True; only False is"),
        ("qwen2", {"attention_bias": True}, "attention_bias = True; only False is"),
        ("mistral", {"attention_bias": True}, "attention_bias = True; only False"),
        ("gpt2", {"n_special": 2}, "n_special = 2; only 0 is implemented"),
        *[
            (kind, {"rope_interleaved": True}, "rope_interleaved = True; only False")
            for kind in FILES
        ],
        ("mistral", {"layer_types": ["full_attention"]}, "has layer_types"),
        ("llama", {"rope_scaling": {"type": "yarn"}}, "rope type 'yarn', which is not"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "linear"}},
            r"\[\] with rope type 'linear', expected \['factor'\]",
        ),
        ("qwen2", {"layer_types": ["full_attention"]}, "there must be 5 of"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 5}, "there must be 5 of"),
        *[
            (
                kind,
                {"use_sliding_window": False, "layer_types": names},
                "there must be 5 of full_attention, sliding_attention",
            )
            for kind in ("qwen2", "qwen3")
            for names in (["linear_attention"] * 5, ["full_attention"])
        ],
        (
            "qwen2",
            {"layer_types": ["sliding_attention"] * 5, "use_sliding_window": False},
            "sliding_attention in layer_types, but no window: use_sliding_window is F",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"rope_type": "default"}},
            r"has \['rope_type'\] in rope_parameters",
        ),
        (
            "gemma3_text",
            {
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "linear", "factor": 2.0}
                }
            },
            "scales RoPE in layers with a window",
        ),
    ],
)
def test_what_is_not_implemented_is_named(kind, change, message):
    values = {"model_type": kind, **FILES.get(kind, {}), **change}
    with pytest.raises(ValueError, match=message):
        config_of(values)


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("llama", {"hidden_size": "64"}, "hidden_size = '64'; it must be a whole num"),
        (
            "llama",
            {"num_attention_heads": 0},
            "num_attention_heads = 0; it must be a w",
        ),
        ("llama", {"num_hidden_layers": 2.5}, "num_hidden_layers = 2.5; it must be"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers = True; it must be"),
        ("llama", {"rms_norm_eps": "tiny"}, "rms_norm_eps = 'tiny'; it must be a num"),
        (
            "llama",
            {"rope_theta": float("inf")},
            "rope_theta = inf; it must be a number",
        ),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling = 'linear'; it must be an"),
        ("llama", {"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no'; it must"),
        (
            "qwen2",
            {"layer_types": "full"},
            "layer_types = 'full'; it must be a list of",
        ),
        (
            "qwen2",
            {"layer_types": [["full"]]},
            "layer_types = .*; it must be a list of",
        ),
        ("gemma2", {"query_pre_attn_scalar": 0}, "scalar = 0; it must be a number abo"),
        ("gpt2", {"n_head": 0}, "n_head = 0; it must be a whole number above 0"),
        ("gpt2", {"n_embd": -4}, "n_embd = -4; it must be a whole number above 0"),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": 3}},
            "full_attention = 3",
        ),
        (["llama"], {}, r"model_type \['llama'\] is not implemented"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "linear", "factor": None}},
            "has null for factor",
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "linear", "factor": "2"}},
            "factor = '2'; it must be a number above 0",
        ),
        ("llama", {"rope_scaling": {"rope_type": ["x"]}}, "rope_type = .'x'.; it must"),
    ],
)
def test_values_of_another_type_are_named(kind, change, message):
    sizes = {} if isinstance(kind, list) else FILES.get(kind, {})
    with pytest.raises(ValueError, match=message):
        config_of({"model_type": kind, **sizes, **change})


def test_every_field_that_is_read_has_a_type():
    read = families_t5._READ.union(*(one.read for one in FAMILIES.values()))
    notes = families._GPT2_NOTES | {"n_ctx", "_sliding_window_pattern"}
    assert read - notes <= family.KINDS.keys()
